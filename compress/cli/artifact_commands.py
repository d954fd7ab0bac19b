"""Commands about an artifact that is there."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import CONFIG, DATA, DEPLOYMENT, print_json, with_options, working
from compress.core.errors import EXIT_FAIL, EXIT_PASS, CompressError
from compress.options.gate_limits import KINDS, SETTINGS, Gate, merged, read_gate
from compress.options.table import flag

if TYPE_CHECKING:
    from compress.gate.breakdown import Part
    from compress.gate.judge import Report


@click.command(short_help="Measure an artifact again.")
@click.argument("artifact", metavar="OUT")
@with_options(DATA[:4], DATA[5:], DEPLOYMENT[:3])
def validate(artifact: str, as_json: bool, **values: Any) -> int:
    """Measure an artifact again: latency against the dense model, accuracy, parity. Options override the artifact's.

    \b
    Example:
      compress validate out --eval-data dev.csv
    """
    from compress.options.run_config import make_config

    overrides = {name: value for name, value in values.items() if value is not None}
    # Wrong values are named as such here; the artifact's own model takes the place of this one.
    make_config({"model": "model", **overrides}, dict.fromkeys(overrides, "command line"))
    with working() as progress:
        from compress import pipeline

        result = pipeline.validate_artifact(Path(artifact), overrides, progress=progress)
    from compress.cli import console

    print_json(console.result_document(result)) if as_json else console.result(result)
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
    with working() as progress:
        from compress import pipeline

        reasons = pipeline.why(Path(artifact))
        if reasons.get("damage"):
            progress.info(f"warning: '{artifact}' {reasons['damage']}")
    from compress.cli import console

    print_json(reasons) if as_json else console.why(reasons)


LIMITS = [
    *(click.option(flag(name), name, help=kind.help, metavar="LIMIT", multiple=True) for name, kind in KINDS.items()),
    *(
        click.option(flag(name), name, help=setting.help, metavar=setting.metavar, type=setting.type)
        for name, setting in SETTINGS.items()
    ),
]
REPORTS = [
    click.option("--baseline", metavar="OTHER", help="Artifact that limits 'of baseline' are about."),
    click.option("--file", metavar="NAME", help="Model file that limits are about.  [default: model.onnx]"),
    click.option("--measure", is_flag=True, help="Time the files here instead of taking recorded latencies."),
    click.option("--junit", metavar="FILE", help="Write JUnit's XML too."),
    click.option("--why", "weigh", is_flag=True, help="Show what weighs: bytes and ms per part of the model."),
]


@click.command(short_help="Pass or fail an artifact by limits on size, latency, accuracy.")
@click.argument("artifact", metavar="OUT")
@with_options(LIMITS, REPORTS, CONFIG)
def gate(
    artifact: str,
    baseline: str | None,
    file: str | None,
    measure: bool,
    junit: str | None,
    weigh: bool,
    config_file: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Hold an artifact against limits, from options and the [gate] table of compress.toml.

    \b
    Examples:
      compress gate out --max-size-mb 50 --max-latency-ms 5 --max-drop 0.01
      compress gate out --baseline last --max-latency-ms "105 % of baseline" --max-drop "0.5 % of baseline" --measure

    Exit codes: 0 every limit is met, 1 one is not, 2 an interval straddles one, 3 error (no limits is one).
    """
    from compress.gate import formats

    try:
        report = _gated(artifact, {"baseline": baseline, "measure": measure, "file": file}, config_file, values)
        if junit is not None:
            formats.write_to(junit, formats.junit(report))
        heaviest = _heaviest(artifact) if weigh else None
    except CompressError as error:
        _say_error(str(error), junit)
        raise
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        formats.write_to(os.environ["GITHUB_STEP_SUMMARY"], formats.markdown(report), append=True)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        # On stderr: the runner reads it there too, and stdout stays the result alone.
        for line in formats.annotations_of(report):
            click.echo(line, err=True)
    from compress.cli import console

    if as_json:
        weights = {} if heaviest is None else {"parts": [asdict(part) for part in heaviest]}
        print_json({**formats.document(report), **weights})
    else:
        console.gated(report, heaviest)
    return report.exit_code


def _gated(artifact: str, how: dict[str, Any], config_file: str | None, values: dict[str, Any]) -> Report:
    from compress.gate.judge import judge
    from compress.options.toml_file import find_config_file, read_config_file

    given = {name: value for name, value in values.items() if value not in (None, ())}
    settings = find_config_file(config_file)
    written = Gate() if settings is None else read_config_file(settings)[1]
    limits = merged(read_gate(given, "command line"), written, given)
    with working() as progress:
        return judge(artifact, limits, progress, **how)


def _heaviest(artifact: str) -> list[Part]:
    from compress.gate.breakdown import parts

    with working():
        return parts(Path(artifact))


def _say_error(message: str, junit: str | None) -> None:
    """Write an error to the places of the result, which may still hold an earlier run's."""
    from compress.gate import formats

    if os.environ.get("GITHUB_ACTIONS") == "true":
        click.echo(formats.annotation("error", "compress gate", message), err=True)
    if junit is not None:
        with contextlib.suppress(CompressError):
            formats.write_to(junit, formats.junit_of_error(message))


@click.command(short_help="Check that no file of an artifact changed.")
@click.argument("artifact", metavar="OUT")
@click.option("--public-key", metavar="FILE", help="Check its signature too: was it signed by this key's owner?")
@with_options()
def verify(artifact: str, public_key: str | None, as_json: bool) -> int:
    """Check every file of an artifact against its manifest, offline: names what changed, is missing, or is extra.

    \b
    Examples:
      compress verify out
      compress verify out --public-key key.pub

    Exit codes: 0 as it was written, 1 a file is not, 3 no artifact. Without a key this finds damage, not malice.
    """
    from dataclasses import replace

    from compress.artifact.verify import verify as check
    from compress.cli import console

    found = check(artifact)
    if public_key is not None:
        from compress.artifact.sign import check_signature

        with working():
            found = replace(found, findings=(*found.findings, *check_signature(Path(artifact), Path(public_key))))
    print_json(found.to_json()) if as_json else console.verified(artifact, found)
    if public_key is not None and not found.findings and not as_json:
        click.echo(f"signed by the owner of {public_key}")
    return EXIT_FAIL if found.findings else EXIT_PASS


@click.command(short_help="Sign an artifact with a key.")
@click.argument("artifact", metavar="OUT")
@click.option("--key", metavar="FILE", required=True, help="Private key: elliptic curve, PEM.")
@with_options()
def sign(artifact: str, key: str, as_json: bool) -> None:
    """Sign every file of an artifact, offline, with OpenSSF model-signing (extra `sign`); writes OUT/model.sig.

    \b
    Example:
      openssl ecparam -name prime256v1 -genkey -noout -out key.pem
      openssl ec -in key.pem -pubout -out key.pub
      compress sign out --key key.pem
      compress verify out --public-key key.pub
    """
    from compress.artifact.sign import sign as make_signature

    with working():
        file = make_signature(Path(artifact), Path(key))
    print_json({"signature": str(file)}) if as_json else click.echo(f"signature: {file}")


@click.command(short_help="One page with everything about artifacts.")
@click.argument("artifacts", metavar="OUT [OUT ...]", nargs=-1, required=True)
@click.option(
    "--output", "output_file", metavar="FILE", help="Page to write.  [default: OUT/report.html or ./report.html]"
)
@with_options()
def report(artifacts: tuple[str, ...], output_file: str | None, as_json: bool) -> None:
    """Write report.html: of one artifact or sweep anew, or of several artifacts side by side.

    \b
    Examples:
      compress report out
      compress report out-int8 out-fp32 out-small --output comparison.html
    """
    from compress.report.write import NAME, is_artifact, page_of, renew_report, write_page

    directories = [Path(artifact) for artifact in artifacts]
    page = page_of(directories)
    for text in page.warnings:
        click.echo(f"warning: {text}", err=True)
    if as_json and output_file is None:
        # A program that reads the document needs no file.
        print_json(page.document())
        return
    inside = directories[0] / NAME
    file = Path(output_file) if output_file else inside if len(directories) == 1 else Path(NAME)
    if file == inside and is_artifact(directories[0]):
        renew_report(directories[0])
    else:
        write_page(page, file)
    print_json({**page.document(), "output": str(file)}) if as_json else click.echo(f"report: {file}")


@click.command(short_help="Lay an artifact out for another program.")
@click.argument("artifact", metavar="OUT")
@click.option(
    "--for", "consumer", metavar="PROGRAM", required=True, help="optimum, transformers.js, triton, tei or fastembed."
)
@click.option("--output", "output", metavar="DIR", help="Directory to write.  [default: OUT-PROGRAM]")
@click.option("--copy", is_flag=True, help="Copy files; without it they are hard links to the artifact's.")
@with_options()
def package(artifact: str, consumer: str, output: str | None, copy: bool, as_json: bool) -> None:
    """Write the files of an artifact again where a program looks for them, with a README.md that says how to load them.

    \b
    Examples:
      compress package out --for transformers.js
      compress package out --for triton --output models --copy

    Many programs load OUT as it is: docs/drop-in.md has the list.
    """
    from compress.artifact.package import package as write

    with working():
        made = write(artifact, consumer, output, copy=copy)
    if as_json:
        print_json(made.to_json())
        return
    click.echo(f"package for {made.consumer}: {made.directory} ({'linked' if made.linked else 'copied'})")
    click.echo(made.snippet)
