"""Sparsity of single weights: masks on the matrices of the encoder's linear layers. Saves bytes, not time.

    matrices.py    which matrices, taken from the family's entry
    choice.py      the most worthy elements, exactly so many, over all matrices or in each
    scores.py      what an element is worth while weights change: one class per scorer
    masking.py     scores, schedule and choice together: what the training loop asks of a mask
    coding.py      what is left of a matrix as bytes: a bitmap, or distances between columns
    compact.py     the compact file: int8 values, where they lie, and all else of a model; written and read
    train.py       from a dense model to a thinned-out one: training, or one choice at once
    stage.py       the job of a run: recipe, training, compact file, accuracy
    summary.py     what came of it, for files, the terminal and the report

Source: Sanh, Wolf and Rush, *Movement Pruning: Adaptive Sparsity by Fine-Tuning*, NeurIPS 2020.
"""
