"""Importance of heads and filters, from calibration examples.

    calibrate    which sums a method needs
    accumulate   sums over examples: batches, memory, processes, random draws
    fisher       Fisher information of the masks (Kwon et al. 2022)
    curvature    Kronecker factors of the loss at every sublayer
    obs          structured OBS: the order in which units are removed
    finite       where NaN or infinity first comes up

May import pruning, distributed, inputs, tasks, models, data, options, core.
"""
