"""One file per stage that the user sees: computed, cached, measured.

    context          progress, seconds and cache of one run
    results          what stages give
    device           the target with the dense model on it
    absent_device    a target that is elsewhere
    profile          the latency table of every precision
    calibrate        importance of heads and filters
    try_out          whole structures tried out
    search           the best plan of every precision, checked on the device
    budget_use       how much of the budget a measured structure uses
    prune            units removed, the rest reconstructed
    export           a model to a file of the target, compared with PyTorch
    int8_accuracy    layers that int8 must leave alone
    validate         metric, latency and verdict of the exported file
    finish           a plan carried out: prune, export, validate
    candidates       the best of the finished ones
    fine_prune       training on top;  settle_structure  times what its scores chose
    write            the files of the artifact
    cache_keys       what each stored result depends on
    cache_codecs     how each is stored

May import everything but gate, pipeline, demo, api and cli.
"""
