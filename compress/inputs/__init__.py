"""Loads and checks everything a run reads, before anything is computed.

    checkpoint   the dense model with its tokenizer and task
    processors   tokenizers and image processors
    head         the head against id2label
    sanity       the dense model's metric against chance
    load         checkpoint, target, calibration and evaluation examples

May import tasks, models, data, options, profile, core.
"""
