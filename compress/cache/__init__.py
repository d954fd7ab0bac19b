"""Content-addressed results on disk. Knows nothing of what it stores.

    store        the cache directory: find, keep, clean
    entry        one entry: record, hashes, files
    memo         a stage's result, remembered or made

May import core.
"""
