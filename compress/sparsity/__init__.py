"""Sparsity of single weights: masks on the encoder's linear layers, and the compact file. Saves bytes, not time.

    matrices      which matrices, taken from the family's entry
    topk          the elements of largest score, exactly so many, over all matrices or in each
    scores        worth of an element while weights change: one class per scorer
    masking       masks on single weights: scores, schedule and choice
    train         from a dense model to a sparse one: training, or one choice at once
    packing       positions as bytes: a bitmap, or distances between columns
    compact_file  the compact file, written and read: int8 values, positions, everything else
    summary       results for files, the terminal and the report

Source: Sanh, Wolf and Rush, *Movement Pruning: Adaptive Sparsity by Fine-Tuning*, NeurIPS 2020.

May import fineprune and the rooms below it.
"""
