"""Training on top of the post-training result, under a falling budget.

    recipe          what is trained, how long, how fast: ``configs/recipes/*.toml``
    prepare         reads and checks recipe, teacher and training data
    scores          worth of a unit while weights change: one class per scorer
    schedule        the budget as a function of the step
    projection      from scores to a structure within the budget, by the search
    mask_protocol   what the training loop asks of a mask
    masking         masks on heads and filters: scores, schedule and projection
    distill         losses against labels and a teacher
    fake_quant      weights and activations rounded as in an int8 file
    train           the training loop;  parallel  over several processes
    session         the phases of a recipe, one after the other
    checkpoints     the state of a training, saved and read
    log             training.csv

Sources of the scorers: Sanh, Wolf and Rush 2020 (movement), Louizos et al. 2018 (L0), here per head and filter instead
of per weight. May import artifact, search, reconstruction, calibration, export and the rooms below them.
"""
