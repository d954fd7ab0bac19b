"""Loads and checks everything a run reads, before anything is computed.

    folder         what a model folder holds, before anything in it is loaded: adapters, other formats
    adapter        LoRA adapters, merged;  pickled  weights of older checkpoints, read as tensors
    conversion     both as safetensors
    configuration  config.json, without the flags that only steer how a model is run
    weights        weight files: whole, not quantized, with the names that the model has
    processors     tokenizers and image processors
    checkpoint     the dense model with its tokenizer and task
    devices        the devices that PyTorch has here
    compute        where PyTorch computes: checked, chosen, given up
    torch_state    torch's process-wide state: ours inside a command, the caller's again after it
    quiet          no progress bars of libraries
    precisions     number formats to plan for, and to keep
    load           checkpoint, target, calibration and evaluation examples
    head           the head against id2label
    sanity         the dense model's metric against chance
    tokenizer_settings  padding side, attention mask, lower case, longest text
    task_choice  the task, from the head and the files beside it
    sentence_encoder    modules.json: pooling, and what else makes an embedding
    prompts             the text before every text
    setfit              the head of a SetFit folder
    embedding_layers    weights of the layers after pooling

May import tasks, models, data, options, profile, core.
"""
