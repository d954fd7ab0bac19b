"""``compress gate``: limits that a release has to keep, judged on what was measured.

    evidence      what an artifact says of itself, checked against its manifest
    timing        files timed here and now
    decision      the statistics: intervals, verdicts; pure, tested by simulation
    measurements  value and limit of each kind, in one unit
    judge         limits and evidence to verdicts
    formats       JSON, JUnit, Markdown, annotations
    breakdown     bytes and milliseconds per part of the model

The limits themselves are options (``options/gate_limits.py``). May import report, artifact, export, options, core.
"""
