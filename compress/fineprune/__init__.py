"""Fine-pruning: training on top of what the post-training stages give, on the same gates and the same search.

    recipe.py      what is trained, how long, how fast: ``configs/recipes/*.toml``
    scores.py      what a unit is worth while weights change: one class per scorer
    schedule.py    the budget as a function of the step
    projection.py  scores to a structure within the budget, by the search of the post-training path
    distill.py     losses against a teacher
    masks.py       what the training loop asks of a mask
    masking.py     scores, schedule and projection together: the gates of every step
    rounding.py    weights and activations rounded as an int8 file has them
    train.py       the training loop;  parallel.py  over several processes;  state.py  its checkpoints
    session.py     the phases of a recipe, one after the other
    stage.py       the stage of a run: from a finished candidate to a fine-pruned one

Source of the scorers: Sanh, Wolf and Rush 2020 (movement), Louizos et al. 2018 (L0), here per head and filter instead
of per weight.
"""
