"""Search: chooses the structure that loses least importance within a budget.

    planner      runs the search of a method and makes the plan
    costs        costs of widths in the budget's unit, and the limit
    knapsack     exact search by dynamic programming
    kwon         the two searches of Kwon et al. 2022
    rearrange    mask rearrangement of Kwon et al. 2022
    spdy         coefficients of sublayers' losses, found by trying structures
    size_limit   file size as a second constraint
    trade_off    importance kept at other budgets

May import profile, core. numpy only, no torch.
"""
