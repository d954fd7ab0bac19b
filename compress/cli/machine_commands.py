"""Commands about devices, this machine among them."""

from __future__ import annotations

import click

from compress.cli.common import COMPUTE, print_json, resolve_device, with_options, working
from compress.core.errors import EXIT_ERROR, EXIT_PASS


@click.command(short_help="List the devices there are.")
@with_options()
def targets(as_json: bool) -> None:
    """List the devices that `--target` knows, and where a run on this machine takes their profiles from.

    \b
    Profiles: measured here; estimated (from the data sheet, for planning); none (bring one from the device).
    Example:
      compress targets
    """
    from compress.cli import console
    from compress.profile.device import provenance
    from compress.profile.target import list_targets

    known = list_targets()
    documents = [{**target.model_dump(mode="json"), "profile": provenance(target)} for target in known]
    print_json(documents) if as_json else console.targets(known)


@click.command(short_help="Is this machine ready, and quiet enough to measure?")
@with_options(COMPUTE)
def doctor(device: str | None, as_json: bool) -> int:
    """Check this machine: libraries, runtimes and their providers, GPU, memory, threads, how steady timings are.

    \b
    Each line is ok, a warning or a problem, with what to do; exit code 3 where there is a problem.
    Examples:
      compress doctor
      compress doctor --device cuda:1
    """
    from compress.cli import console

    with working():
        from compress.cli.doctor import PROBLEM, examine

        findings = examine(resolve_device(device))
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        console.findings(findings)
    return EXIT_ERROR if any(finding.state == PROBLEM for finding in findings) else EXIT_PASS
