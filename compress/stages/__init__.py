"""One file per stage that the user sees: computed, cached, measured.

    context            `Run`: what every stage of a run needs
    computing          `@computing`: a function that runs where PyTorch computes
    stage              `@stage`: a function whose result is stored
    results            values that stages return
    device             protocol of a target;  open_device  opens one
    present_device     a target that is this machine
    absent_device      a target that is elsewhere
    forms              forms of a number format, opened to be timed
    choose_target      of several targets on this machine the fastest
    dense_model        the exported dense model, cut to structures of any widths
    profile            the latency table of every precision
    calibrate          importance of heads and filters
    try_out            whole structures, tried
    search             the best plan of every precision, checked on the device
    budget_use         how much of the budget a measured structure uses
    prune              units removed, the rest reconstructed
    export             a model to a file of the target, compared with PyTorch
    int8_accuracy      layers that int8 must leave alone
    invariance         answers alone against answers in batches, reordered, padded
    validate           sections and verdict of validation.json;  evaluate  brings them together
    unpruned           the dense model in the artifact's number format, beside it
    finish             a plan carried out: prune, export, validate
    candidates         the best of the finished ones
    kept               the chosen model in other number formats, beside model.onnx
    card               the artifact's README.md
    fine_prune         training on top
    settle_structure   times the learned structure and projects again
    write              the files of the artifact
    cache_keys         inputs that several stages depend on
    cache_codecs       how results are stored

May import everything but gate, pipeline, demo, api and cli.
"""
