"""Several processes of one run.

    place        this process among those of a launcher
    group        who is the first, and how processes talk
    broadcast    a task, options and examples for the others
    sharded_sum  sums over examples that do not depend on the number of processes

May import data, options, core.
"""
