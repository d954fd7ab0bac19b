"""Encoders: where each family keeps its matrices, and the modules of a model by role.

    families     where the matrices of each family lie: one entry per model type
    placement    on which device weights and sums lie
    encoder      sizes, layers and modules of a model, by the roles of its family's entry

May import core.
"""
