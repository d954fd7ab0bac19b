"""Reconstruction: fits the remaining weights to the dense model's outputs.

    closed_form    sublayer by sublayer: ridge regression towards the original weights
    least_squares  ridge and scale fits from Gram matrices
    joint          all weights together, by gradient
    layerwise      dense and pruned model side by side, one layer at a time
    trial          a quick score of a structure: prune, reconstruct, compare

May import pruning, tasks, models, data, core.
"""
