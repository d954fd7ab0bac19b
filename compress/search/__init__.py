"""From importance, costs and a budget to a plan.

    planner      the search of each method, and the plan that it gives
    costs        what widths cost in the budget's unit, and its limit
    knapsack     exact search by dynamic programming
    kwon         the two searches of Kwon et al. 2022
    rearrange    mask rearrangement of Kwon et al. 2022
    spdy         coefficients of sublayers' losses, by trying structures
    size_limit   file size as a second constraint
    trade_off    what other budgets would keep

May import profile, core. numpy only, no torch.
"""
