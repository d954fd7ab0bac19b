"""Units taken out of a model, softly or for good.

    masks        multipliers on heads and filters (the mask variables of Kwon et al. 2022)
    removal      physical removal of heads and filters

May import models, data, core.
"""
