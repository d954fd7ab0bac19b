"""Commands about an artifact that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compress.commands.common import DATA, DEPLOYMENT, print_json, with_options, working
from compress.errors import EXIT_FAIL, EXIT_PASS


@click.command(short_help="Measure an artifact again.")
@click.argument("artifact", metavar="OUT")
@with_options(DATA[:4], DEPLOYMENT[:3])
def validate(artifact: str, as_json: bool, **values: Any) -> int:
    """Measure an artifact again: latency against the dense model, accuracy, parity. Options override the artifact's.

    \b
    Example:
      compress validate out --eval-data dev.csv
    """
    from compress.config import make_config

    overrides = {name: value for name, value in values.items() if value is not None}
    # Wrong values are named as such here; the artifact's own model takes the place of this one.
    make_config({"model": "model", **overrides}, dict.fromkeys(overrides, "command line"))
    with working() as progress:
        from compress import pipeline

        result = pipeline.validate_artifact(Path(artifact), overrides, progress=progress)
    from compress import render

    print_json(render.result_document(result)) if as_json else render.result(result)
    return int(result.exit_code)


@click.command(short_help="Where an artifact's time goes.")
@click.argument("artifact", metavar="OUT")
@with_options()
def why(artifact: str, as_json: bool) -> None:
    """Where an artifact's time goes, sublayer by sublayer, and what one ms more or less would buy.

    \b
    Example:
      compress why out
    """
    with working():
        from compress import pipeline

        reasons = pipeline.why(Path(artifact))
    from compress import render

    print_json(reasons) if as_json else render.why(reasons)


@click.command(short_help="Check that no file of an artifact changed.")
@click.argument("artifact", metavar="OUT")
@with_options()
def verify(artifact: str, as_json: bool) -> int:
    """Check every file of an artifact against its manifest, offline: names what changed, is missing, or is extra.

    \b
    Example:
      compress verify out

    Exit codes: 0 as it was written, 1 a file is not, 3 no artifact. This finds damage, not malice.
    """
    from compress import render
    from compress.verifying import verify as check

    found = check(artifact)
    print_json(found.to_json()) if as_json else render.verified(artifact, found)
    return EXIT_FAIL if found.findings else EXIT_PASS
