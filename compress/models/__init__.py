"""Encoders by role; families as data.

    families     where the matrices of each family lie: one entry per model type
    encoder      an encoder seen through its family's entry: sizes, layers, modules

May import core.
"""
