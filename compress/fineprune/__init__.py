"""Fine-pruning: training under a budget that falls, with the gates and the search of the post-training path.

    recipe           phases, rates and losses of a training: ``configs/recipes/*.toml``
    prepare          reads and checks recipe, teacher and examples;  prepared: the result
    session          the phases of a recipe, one after the other
    train            the training loop of one phase;  phase: its values;  parallel: over several processes
    checkpoints      its checkpoints;  log: training.csv
    distill          losses against a teacher
    scores           base of the scorers of units and of single weights
    unit_scores      scores of heads and filters: one class per scorer
    schedule         the budget as a function of the step
    projection       from scores to a structure within the budget, by the search
    mask_protocol    interface between training loop and mask;  scheduled_mask: base of all masks
    masking          masks on heads and filters: scores, schedule and projection together
    fake_quant       weights and activations rounded as in an int8 file

May import search, reconstruction, export, pruning, distributed, inputs, tasks, models, data, options, core.

Sources of the scorers: Sanh, Wolf and Rush 2020 (movement), Louizos et al. 2018 (L0), here per head and filter instead
of per weight. May import artifact, search, reconstruction, calibration, export and the rooms below them.
"""
