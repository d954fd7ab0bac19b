"""Reads files and hub data sets into rows, examples and batches.

    tables       csv, tsv, json and parquet files as tables
    headerless   files without a header: CoNLL, plain text
    columns      which columns hold texts and labels
    labels       the model's number for each label
    splits       one choice of columns for all splits
    images       folders and columns of images
    hub          whether a name is a path or on the hub
    load         files, directories and hub data sets as rows
    batches      encoded examples and batches of them

May import core.
"""
