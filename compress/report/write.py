"""Reports as files: of an artifact, of several, of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact.files import SWEEP
from compress.artifact.manifest import NAME as MANIFEST
from compress.artifact.manifest import SEAL, read_manifest, write_manifest
from compress.core.errors import ArtifactError, ConfigError
from compress.report import NAME
from compress.report.artifact_page import artifact_page
from compress.report.comparison_page import comparison_page
from compress.report.html import render
from compress.report.page import Page
from compress.report.sources import Facts, Logged, Sources, is_sweep, make_sources, read_json, read_sources
from compress.report.sparse_page import weights_page
from compress.report.sweep_page import front_page

if TYPE_CHECKING:
    from compress.core.plan import Plan
    from compress.profile.latency_profile import Profile


def page_of(directories: Sequence[Path]) -> Page:
    """The page of an artifact, of a sweep, or of several artifacts side by side.

    Args:
        directories: at least one.

    Raises:
        ConfigError: a sweep among several.
        CompressError: a directory is neither an artifact nor a sweep, or a file in it is damaged.
    """
    sweeps = [directory for directory in directories if is_sweep(directory)]
    if sweeps and len(directories) > 1:
        raise ConfigError(f"'{sweeps[0]}' is a sweep, whose models are side by side already; compare artifacts")
    if sweeps:
        return front_page_of(read_json(sweeps[0] / SWEEP))
    if len(directories) == 1:
        return _page(read_sources(directories[0]))
    return comparison_page([read_sources(directory) for directory in directories])


def _page(sources: Sources) -> Page:
    weights = sources.validation.unstructured
    return artifact_page(sources) if weights is None else weights_page(sources, weights)


def is_artifact(directory: Path) -> bool:
    """Whether a directory has a manifest, in which the report's hash has to be renewed."""
    return (directory / MANIFEST).is_file()


def front_page_of(document: Any) -> Page:
    """The page of a sweep, from what sweep.json holds."""
    return front_page(Facts(document))


def report_text(
    *,
    plan: Plan,
    profile: Profile | None,
    validation: Any,
    manifest: Mapping[str, Any],
    trade_off: Any,
    training: Sequence[Logged] = (),
) -> str:
    """The report of an artifact that is being written.

    Law: it is what ``renew_report`` makes of the finished artifact.

    Args:
        plan: what was kept.
        profile: where latencies come from; None without one.
        validation: what was measured; None where nothing was.
        manifest: what manifest.json will hold.
        trade_off: what tradeoff.json holds; empty without.
        training: lines of training.csv.
    """
    sources = make_sources(
        plan=plan,
        profile=profile,
        validation=validation,
        manifest=manifest,
        trade_off=trade_off,
        training=training,
    )
    return render(_page(sources))


def renew_report(directory: Path) -> None:
    """Make an artifact's report again, and renew its hash in the manifest; what that says of other files stays.

    A damaged profile is left out, and the report says so.

    Raises:
        CompressError: plan, validation or manifest cannot be read, or the report not be written.
    """
    write_page(_page(read_sources(directory, forgiving=True)), directory / NAME)
    manifest = read_manifest(directory)
    facts = {name: value for name, value in manifest.items() if name not in ("files", SEAL)}
    write_manifest(directory, facts, manifest["files"], {NAME})


def write_page(page: Page, file: Path) -> None:
    """Write a page, whole or not at all.

    Args:
        page: its content.
        file: to write.

    Raises:
        ArtifactError: the file cannot be written.
    """
    temporary = file.with_name(f".{file.name}.partial")
    try:
        temporary.write_text(render(page), encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write '{file}': {error.strerror or error}; choose another --output") from error


__all__ = ["NAME", "front_page_of", "is_artifact", "page_of", "renew_report", "report_text", "write_page"]
