"""Pruning: heads and filters switched off by gates, or removed from the weights.

    masks        multipliers on heads and filters (the mask variables of Kwon et al. 2022)
    removal      physical removal of heads and filters
    padding      a pruned model as one of equal widths

May import models, data, core.
"""
