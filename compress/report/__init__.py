"""report.html: everything that is known of an artifact, on one page for people.

    page.py        what a page consists of: sections with tables, pictures and notes; plain data, no HTML
    reading.py     an artifact's files, or a sweep's, as plain values; whatever is absent or odd is None
    artifact.py    the page of one artifact
    weights.py     the page of an artifact of single weights
    sublayers.py   its sections about structure and latency
    origin.py      its sections about where it came from
    comparing.py   the page of several side by side
    front.py       the page of a sweep
    drawing.py     pictures as SVG: small pure functions from numbers to text
    scale.py       axes: round numbers, positions
    colors.py      the colours of light and dark, and which lie on which
    words.py       values as words: digits, units, what is written where nothing is known
    files.py       pages written, and renewed in an artifact
    html.py        pages as text: template.html and style.css, everything from outside escaped

Imports nothing heavy: no torch, no transformers, no onnx.
"""

from __future__ import annotations

NAME = "report.html"
