"""report.html: everything that is known of an artifact, on one page for people.

    page             what a page consists of: sections with tables, pictures and notes; plain data, no HTML
    sources          an artifact's files, or a sweep's, as plain values; whatever is absent or damaged is None
    artifact_page    the page of one artifact
    sparse_page      the page of an artifact of single weights
    candidates       its section about number formats;  slices: about parts of the data
    latency          its section about sublayers;  training: about losses
    provenance       its sections about where it came from;  time_spent: where the time of the run went
    comparison_page  the page of several artifacts side by side
    sweep_page       the page of a sweep
    svg              pictures: small pure functions from numbers to text;  axis: round numbers, positions
    colors           the colours of light and dark, and which lie on which
    formatting       values as words: digits, units, what is written where nothing is known
    write            pages written, and renewed in an artifact
    html             pages as text: template.html and style.css, everything from outside escaped
    why              milliseconds per sublayer, for `compress why`

Imports nothing heavy: no torch, no transformers, no onnx.
"""

from __future__ import annotations

from compress.artifact.files import REPORT

NAME = REPORT
