"""``compress gate``: limits that a release has to keep, judged on what was measured.

limits.py     what can be limited, and how a line of the configuration is read
evidence.py   what an artifact says of itself, checked against its manifest
timing.py     what can be measured here and now
decision.py   the statistics: intervals, verdicts; pure, tested by simulation
facts.py      what there is on each kind of limit
judge.py      limits and facts to verdicts
output.py     JSON, JUnit, Markdown, annotations
parts.py      what weighs: bytes and milliseconds per part
"""
