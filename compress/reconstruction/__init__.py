"""Reconstruction: fits the remaining weights to the dense model's outputs.

    closed_form    sublayer by sublayer: ridge regression towards the original weights
    least_squares  ridge and scale fits from Gram matrices
    joint          all weights together, by gradient
    material       which examples are fitted, trained on and judged by, for how long
    lessons        the dense model's answers on the training examples
    word_rows      rows of the word embeddings that examples read, as a table to train
    head           the dense model behind its last layer
    hidden_states  hidden states in a forward pass, their distance
    layerwise      the dense model, one layer at a time
    replaced       modules that compute something else for a while
    student_layer  one layer of the pruned model while it is fitted
    trial          a quick score of a structure: prune, reconstruct, compare

May import pruning, tasks, models, data, core.
"""
