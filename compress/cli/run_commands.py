"""Commands that lead to an artifact, or to a part of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from compress.cli.common import (
    BUDGET,
    CHECKPOINT,
    COMPUTE,
    CONFIG,
    DATA,
    DEPLOYMENT,
    EFFORT,
    KEEP,
    MODEL,
    OUTPUT,
    RECONSTRUCTION,
    RESUME,
    SEARCH,
    SEED,
    SEVERAL_DEPLOYMENTS,
    TRAINING,
    print_json,
    resolve_config,
    shown,
    with_options,
    working,
)
from compress.core.errors import EXIT_PASS, ConfigError
from compress.core.trace import tracing
from compress.options.table import CONFIG_FILE


@click.command(short_help="Compress a model to a budget.")
@with_options(
    MODEL,
    DATA,
    BUDGET,
    DEPLOYMENT,
    KEEP,
    SEARCH,
    RECONSTRUCTION,
    TRAINING,
    EFFORT,
    COMPUTE,
    SEED,
    CHECKPOINT,
    OUTPUT,
    CONFIG,
)
@RESUME
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show every option and where it came from, check the inputs, and show "
    "which stages --resume would run; do nothing.",
)
@click.option("--trace", metavar="FILE", help="Write where the time goes, for ui.perfetto.dev: stages and their parts.")
def run(config_file: str | None, resume: bool, dry_run: bool, trace: str | None, as_json: bool, **values: Any) -> int:
    """Compress MODEL to a budget: profile, calibrate, search, reconstruct, export, validate.

    \b
    Examples:
      compress run path/to/model --data train.csv --eval-data dev.csv --speedup 2 --output out
      compress run --latency-ms 5 --target cpu        # the rest from compress.toml
    """
    resolved = resolve_config(values, config_file, "data", "budget")
    from compress.cli import console

    if dry_run:
        if not as_json:
            console.configuration(resolved)
        with working() as progress:
            from compress import pipeline

            foreseen = pipeline.foresee(resolved.config, progress=progress)
        if as_json:
            document = {"config": resolved.config.model_dump(mode="json"), "origins": resolved.origins}
            print_json({**document, "stages": [row.to_json() for row in foreseen]})
        else:
            console.foreseen(foreseen)
        return EXIT_PASS
    with working() as progress, tracing(trace):
        from compress import pipeline

        result = pipeline.run(resolved.config, origins=resolved.origins, resume=resume, progress=progress)
    print_json(console.result_document(result)) if as_json else console.result(result, resolved.config)
    return int(result.exit_code)


@click.command(short_help="Write a commented compress.toml.")
@with_options(MODEL, DATA, BUDGET, DEPLOYMENT, KEEP, SEARCH, RECONSTRUCTION, TRAINING, EFFORT, COMPUTE, SEED)
@click.option("--config", "config_file", metavar="FILE", default=CONFIG_FILE, help="File to write.", show_default=True)
def init(config_file: str, as_json: bool, **values: Any) -> None:
    """Write a commented compress.toml; options given here are set in it.

    \b
    Example:
      compress init path/to/model --data train.csv --speedup 2
    """
    from compress.options.run_config import resolve
    from compress.options.toml_file import commented_toml, seen_from

    path = Path(config_file)
    given = {name: value for name, value in values.items() if value is not None}
    # Values are checked here rather than when the file is first used; the model may come later.
    resolve({"model": "model", **given})
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(commented_toml(seen_from(path.parent, given)))
    except FileExistsError:
        raise ConfigError(f"'{path}' exists; edit it, remove it, or choose another name with --config") from None
    except FileNotFoundError:
        raise ConfigError(f"'{path.parent}' does not exist; make the directory first") from None
    print_json({"config_file": str(path)}) if as_json else click.echo(f"wrote {path}; next: compress run --dry-run")


@click.command(short_help="Measure heads and filters on the target.")
@with_options(MODEL, DATA, SEVERAL_DEPLOYMENTS, EFFORT, SEED, CONFIG)
@click.option("--output", "output_file", metavar="FILE", help="Profile to write.  [default: profile-<target>.json]")
@click.option("--plot", metavar="FILE", help="Draw it too: .png or .svg (needs the extra `plot`).")
@click.option("--estimate", is_flag=True, help="Estimate it from the target's data sheet; nothing is measured.")
def profile(
    config_file: str | None, output_file: str | None, plot: str | None, estimate: bool, as_json: bool, **values: Any
) -> None:
    """Measure how long heads and filters of MODEL take on the target, and save it as JSON, which plans anywhere.

    \b
    Examples:
      compress profile path/to/model --data train.csv --target cpu --seq-len 64 --plot profile.png
      compress profile path/to/model --target v100 --output v100.json      # on the device
      compress profile path/to/model --seq-len 64,128 --batch-size 1,8     # lengths between them are interpolated
    """
    given = {name: values[name] for name in ("batch_size", "seq_len")}
    resolved = resolve_config(
        {**values, **{name: next(iter(found), None) for name, found in given.items()}}, config_file
    )
    batches, lengths = (given[name] or (getattr(resolved.config, name),) for name in given)
    shapes = [(batch, length) for batch in batches for length in lengths]
    if plot and len(shapes) > 1:
        raise ConfigError("--plot draws one batch size and length; give one --batch-size and one --seq-len with it")
    path = Path(output_file or f"profile-{Path(resolved.config.target).stem}.json")
    # Before the measurement: finding out afterwards would cost a minute.
    if path.exists():
        raise ConfigError(f"'{path}' exists; remove it, or choose another name with --output")
    if not path.parent.is_dir():
        raise ConfigError(f"'{path.parent}' does not exist; make the directory first")
    with working() as progress:
        from compress import pipeline

        measured = pipeline.profile_shapes(resolved.config, shapes, estimate=estimate, progress=progress)
        measured.write(path)
        if plot:
            from compress.profile.plot import save_plot

            save_plot(measured.taken[0], Path(plot))
    if as_json:
        print_json(json.loads(measured.to_json()))
        return
    from compress.profile.plot import draw

    for one in measured.taken:
        draw(one)
    click.echo(f"profile: {path}" + (f"   plot: {plot}" if plot else ""))


@click.command(short_help="Search only; write no weights.")
@with_options(MODEL, DATA, BUDGET, DEPLOYMENT, SEARCH, EFFORT, COMPUTE, SEED, CONFIG)
@click.option("--output", "output_file", metavar="FILE", help="Write the plan here as JSON, for `compress export`.")
def plan(config_file: str | None, output_file: str | None, as_json: bool, **values: Any) -> None:
    """Search only: which heads and filters of MODEL would be kept. Writes no weights.

    \b
    Example:
      compress plan path/to/model --data train.csv --speedup 2 --output plan.json
    """
    resolved = resolve_config(values, config_file, "data", "budget")
    if output_file and Path(output_file).exists():
        raise ConfigError(f"'{output_file}' exists; remove it, or choose another name with --output")
    with working() as progress:
        from compress import pipeline

        found, _profile = pipeline.make_plan(resolved.config, progress=progress)
    if output_file:
        Path(output_file).write_text(found.to_json(), encoding="utf-8")
    if as_json:
        print_json(json.loads(found.to_json()))
        return
    from compress.cli import console

    console.plan(found)
    if output_file:
        click.echo(f"plan: {output_file}")


@click.command(short_help="Many budgets: accuracy against latency.")
@with_options(MODEL, DATA, DEPLOYMENT, SEARCH, RECONSTRUCTION, EFFORT, COMPUTE, SEED, OUTPUT, CONFIG)
@RESUME
@click.option("--latency-ms", metavar="X,X,...", help="Budgets: milliseconds of one call on the target.")
@click.option("--speedup", metavar="X,X,...", help="Budgets: times faster than the dense model in fp32.")
def sweep(
    config_file: str | None, resume: bool, latency_ms: str | None, speedup: str | None, as_json: bool, **values: Any
) -> None:
    """Compress MODEL to many budgets with one calibration and one profile; table, picture, report.html; no artifacts.

    \b
    Example:
      compress sweep path/to/model --data train.csv --speedup 1.5,2,3 --precision auto --output sweep
    """
    from compress.pipeline.sweep import parse_budgets
    from compress.pipeline.sweep import sweep as sweep_budgets

    if (latency_ms is None) == (speedup is None):
        raise ConfigError("give the budgets of the sweep with one of --latency-ms 4,6,8 and --speedup 1.5,2,3")
    budgets = parse_budgets("latency_ms", latency_ms) if latency_ms else parse_budgets("speedup", speedup or "")
    given = {"output": "sweep", **{name: value for name, value in values.items() if value is not None}}
    resolved = resolve_config(given, config_file, "data")
    with working() as progress:
        found = sweep_budgets(resolved.config, budgets, origins=resolved.origins, resume=resume, progress=progress)
    from compress.cli import console

    print_json(found.document()) if as_json else console.swept(found)


@click.command(short_help="Export a model, dense or with a plan applied.")
@with_options(MODEL, DATA, DEPLOYMENT, KEEP, COMPUTE, SEED, CHECKPOINT, OUTPUT, CONFIG)
@click.option("--plan", "plan_file", metavar="FILE", help="Plan to apply; without it, the dense model is exported.")
def export(config_file: str | None, plan_file: str | None, as_json: bool, **values: Any) -> None:
    """Export MODEL to ONNX: dense, or with a plan applied (reconstructed where data is given).

    \b
    Example:
      compress export path/to/model --plan plan.json --data train.csv --output out
    """
    resolved = resolve_config(values, config_file)
    from compress.core.plan import Plan

    chosen = Plan.read(plan_file) if plan_file else None
    with working() as progress:
        from compress import pipeline

        output = pipeline.export_plan(resolved.config, chosen, progress=progress)
    print_json({"output": str(output)}) if as_json else click.echo(f"artifact: {output}")


@click.command(short_help="Compress a real model, made here.")
@with_options(OUTPUT)
@shown("speedup", type=float, metavar="X", default=2.0, show_default=True)
def demo(output: str | None, speedup: float, as_json: bool) -> int:
    """Fine-tune a small real encoder on real sentences (once, then cached), and compress it for this CPU.

    \b
    Example:
      compress demo
    """
    from compress.cli import console

    with working() as progress:
        from compress.demo import demo as demonstration

        config, result = demonstration.run_demo(output=output, speedup=speedup, progress=progress)
    print_json(console.result_document(result)) if as_json else console.result(result, config)
    return int(result.exit_code)
