"""Sparsity of single weights: masks on the encoder's linear layers, and the compact file. Saves bytes, not time.

    matrices        which matrices, taken from the family's entry
    scores          scores of single weights: one class per scorer
    topk            the elements with the highest scores, exactly so many, over all matrices or in each
    masking         masks on single weights: scores, schedule and choice together
    train           from a dense model to a sparse one: training, or one choice at once
    packing         a sparse matrix as bytes: a bitmap, or distances between columns
    compact_file    the compact file: int8 values, their places, and the rest of the model; written and read
    summary         the results, for files, the terminal and the report

May import fineprune, artifact, inputs, tasks, models, data, core.

Source: Sanh, Wolf and Rush, *Movement Pruning: Adaptive Sparsity by Fine-Tuning*, NeurIPS 2020.

May import fineprune and the rooms below it.
"""
