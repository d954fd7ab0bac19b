"""Values and rules that every other room uses.

    plan         Plan, Structure, Budget, sizes of an encoder
    importance   Fisher information, rankings, what the search reads
    statistics   bootstrap intervals, verdicts
    parsing      JSON and TOML that others may have written, with limits
    progress     the protocol that stages report to
    trace        where the time goes: spans;  time_spent: summed by stage and part
    hashing      SHA-256 of files
    cores        how many cores may be used, how threads wait
    oom          examples in smaller parts where memory runs out
    locks        one process at a time
    waiting      says what is waited for
    ending       an end on signals, also in native code
    errors       error classes and their exit codes

Imports nothing of the package and no torch.
"""
