"""Loads and checks everything a run reads, before anything is computed.

    checkpoint   the dense model with its tokenizer and task
    processors   tokenizers and image processors
    tokenizer_settings  padding side, attention mask, lower case, longest text
    task_choice  the task, from the head and the files beside it
    sentence_encoder    modules.json: pooling, prompts, and what else makes an embedding
    embedding_layers    weights of the layers after pooling
    load         checkpoint, target, calibration and evaluation examples

May import tasks, models, data, options, profile, core.
"""
