"""Reads files and hub data sets into rows, examples and batches.

    text_files   packed and converted text, split into lines
    tables       csv, tsv and parquet files as tables; the reader of each type of file
    json_files   JSON in its usual shapes, SQuAD's articles
    tagged_words a word and its tags per line: CoNLL, CoNLL-U
    literals     lists and tables in one field
    headerless   well-known files without a header, plain text
    saved        folders of ``save_to_disk``
    origin       file and row of every row, for messages
    names        the table of usual column names
    columns      which columns hold texts and labels
    labels       the model's number for each label
    labels_in_texts  labels that stand inside texts
    splits       one choice of columns for all splits
    images       folders and columns of images
    hub          whether a name is a path or on the hub; waits for the hub
    load         files, directories and hub data sets as rows
    batches      encoded examples and batches of them

May import core.
"""
