"""Faults that runs survive, each really brought about: killed, crowded, starved of disk, refused, given damaged files.

Runs are processes of their own (``fork_server.py``) of a tiny random model; what is said of them is read from what the
user would see.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import cli, pipeline
from compress.cache.entry import RECORD
from compress.cache.store import Store
from compress.options.run_config import RunConfig
from compress.pipeline import compression
from compress.profile.take import Profile
from compress.stages import dense_model
from support.models import MakeCheckpoint
from support.once import Once
from support.runs import check_time_spent, check_verdict
from support.thorough import THOROUGH

LENGTH = 24
# Kills over how many the whole test goes; each in a run of its own.
KILLS = 20 if THOROUGH else 5


class Server:
    """Starts runs and waits for them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        tests = Path(__file__).parents[1]
        path = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, str(tests / "support" / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": path},
        )

    def _ask(self, **command: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, cache: Path, *arguments: Any, **environment: str) -> Run:
        """Begin ``compress ARGUMENTS``."""
        self._count += 1
        said = self._folder / f"said-{self._count}"
        given = [str(a) for a in arguments]
        command = {"arguments": given, "cache": str(cache), "said": str(said)}
        out = Path(given[given.index("--output") + 1])
        return Run(self, self._ask(run={**command, "environment": environment})["pid"], said, out)

    def wait(self, pid: int) -> int:
        """The exit code; minus the signal that ended it."""
        return int(self._ask(wait=pid)["status"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Run:
    """A run that has begun, and where its artifact goes."""

    def __init__(self, server: Server, pid: int, said: Path, out: Path) -> None:
        self._server, self.pid, self._said, self.out = server, pid, said, out

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self._said.read_text() if self._said.exists() else ""

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        return self._server.wait(self.pid)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something it does; fails where it ends before."""
        for _ in range(60_000):
            if condition():
                return
            time.sleep(0.005)
        pytest.fail(f"it never came to that: {self.said}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("said"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def profile_file(server: Server, one_layer: Path, data_csv: Path, once: Once) -> Path:
    """A measured profile of the tiny BERT."""

    def make(folder: Path) -> None:
        arguments = ("profile", one_layer, "--data", data_csv, "--seq-len", LENGTH, "--output", folder / "cpu.json")
        done = server.start(folder / "cache", *arguments)
        assert done.wait() == 0, done.said

    return once("profile-one-layer", make) / "cpu.json"


def budget_of(profile_file: Path, share: float) -> float:
    """Milliseconds that leave so much of what heads and filters take."""
    table = Profile.read(profile_file).table
    return max(table.fixed_ms / 0.95, table.fixed_ms + share * (table.dense_ms - table.fixed_ms))


@pytest.fixture(scope="module")
def arguments(one_layer: Path, data_csv: Path, profile_file: Path) -> list[Any]:
    """A run that gives the same whenever it is made: its profile is given."""
    options = {"--data": data_csv, "--eval-data": data_csv, "--seq-len": LENGTH, "--samples": 40}
    options |= {"--profile": profile_file, "--latency-ms": budget_of(profile_file, 0.8)}
    return ["run", one_layer, *(part for pair in options.items() for part in pair)]


def ended_well(run: Run) -> None:
    """It wrote an artifact. Whether so small a model met its budget is noise; what verdict and code rest on is not."""
    code = run.wait()
    assert code in (0, 1, 2), run.said
    check_verdict(run.out, code)
    assert f"verdict: {json.loads((run.out / 'validation.json').read_text())['verdict']}" in run.said


def outcome(out: Path) -> tuple[bytes, bytes]:
    return (out / "plan.json").read_bytes(), (out / "pytorch" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def reference(server: Server, arguments: list[Any], once: Once) -> Path:
    """A run that nothing happened to: cache and artifact, and the seconds that it took."""

    def make(folder: Path) -> None:
        began = time.monotonic()
        ended_well(server.start(folder / "cache", *arguments, "--output", folder / "out"))
        (folder / "seconds").write_text(str(time.monotonic() - began))

    return once("reference", make)


@pytest.fixture
def cache(reference: Path, tmp_path: Path) -> Path:
    """A copy of what the run that nothing happened to has stored."""
    return Path(shutil.copytree(reference / "cache", tmp_path / "cache"))


@pytest.mark.e2e
def test_a_finished_run_is_resumed_without_computing(
    server: Server, arguments: list[Any], reference: Path, cache: Path, tmp_path: Path
) -> None:
    before = {entry.key: (entry.made, entry.stage) for entry in Store(tmp_path / "cache" / "results").entries()}
    run = server.start(cache, *arguments, "--output", tmp_path / "out", "--resume")
    ended_well(run)
    assert outcome(tmp_path / "out") == outcome(reference / "out")
    # The measurements too are those that were made.
    assert (tmp_path / "out" / "validation.json").read_bytes() == (reference / "out" / "validation.json").read_bytes()
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (reference / "out" / "model.onnx").read_bytes()
    after = {entry.key: (entry.made, entry.stage) for entry in Store(tmp_path / "cache" / "results").entries()}
    assert after == before
    reused = json.loads((tmp_path / "out" / "manifest.json").read_text())["reused"]
    assert {entry["stage"] for entry in reused} == {stage for _, stage in before.values()}
    calibrated = [part for part in check_time_spent(tmp_path / "out") if part["stage"] == "calibrate"]
    assert [part.get("stored") for part in calibrated] == [1]
    assert "calibrate (stored, took" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.e2e
def test_a_new_option_redoes_only_what_rests_on_it(
    server: Server, arguments: list[Any], cache: Path, tmp_path: Path
) -> None:
    def redone(*options: Any) -> set[str]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        run = server.start(cache, *arguments, *options, "--output", tmp_path / "out", "--resume")
        ended_well(run)
        used = {line.split("(")[0].split(":")[0].split()[-1] for line in run.said.splitlines() if "used again" in line}
        return {"dense", "form", "calibrate", "try-out", "reconstruct", "export", "validate"} - used

    budget = budget_of(arguments[arguments.index("--profile") + 1], 0.5)
    found = redone("--latency-ms", budget)
    assert found >= {"try-out", "validate"} and found.isdisjoint({"dense", "form", "calibrate"})
    assert redone("--seed", "5") == {"calibrate", "try-out", "reconstruct", "export", "validate"}


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"out", "cache"}


def made(cache: Path) -> dict[tuple[str, str], str]:
    """Every sound result in a cache, and when it was made."""
    return {(e.stage, e.key): e.made for e in Store(cache / "results").entries() if e.damage is None}


def stage_of(said: str) -> str:
    """The last that a run has said to have begun."""
    found = re.findall(r"\] (\w[\w ]*)", said)
    return found[-1] if found else ""


@pytest.mark.e2e
def test_killed_at_any_moment_and_resumed_it_gives_the_same(
    server: Server, arguments: list[Any], reference: Path, tmp_path: Path
) -> None:
    # Spread evenly over what is left of the run, in no order: twenty like that leave no gap that fifty by chance fill.
    moments = (number * (math.sqrt(5) - 1) / 2 % 1 for number in itertools.count(1))
    seconds = float((reference / "seconds").read_text())
    kills = case = 0
    at: set[str] = set()
    stages = 4 if THOROUGH else 2
    while kills < KILLS or (len(at) < stages and kills < 3 * KILLS):
        case += 1
        folder = tmp_path / f"case-{case}"
        folder.mkdir()
        # Killed up to ten times in a row, and then left alone.
        for attempt in range(11):
            kept = made(folder / "cache")
            left = seconds - sum(e.seconds for e in Store(folder / "cache" / "results").entries())
            resume = ["--resume"] if attempt else []
            run = server.start(folder / "cache", *arguments, "--output", folder / "out", *resume)
            if attempt < 10 and kills < KILLS:
                time.sleep(next(moments) * max(0.1 * seconds, left))
                run.kill()
            elif attempt < 10:
                # The clock alone met too few stages, on a machine faster or slower by now: the next new one is awaited.
                run.until(lambda run=run: stage_of(run.said) not in {"", *at} or "verdict: " in run.said)
                run.kill()
            code = run.wait()
            # Nothing that was there is lost or made again.
            now = made(folder / "cache")
            assert kept.items() <= now.items()
            if code != -signal.SIGKILL:
                # A whole run that ended before its moment: this machine is faster than when the reference was made.
                seconds *= 1.0 if attempt else 0.7
                break
            kills += 1
            at.add(stage_of(run.said))
            assert not (folder / "out").exists() or (folder / "out" / "manifest.json").exists()
            if (folder / "out").exists():
                break
        assert code in (0, 1, 2, -signal.SIGKILL), run.said
        check_verdict(folder / "out", None if code == -signal.SIGKILL else code)
        assert outcome(folder / "out") == outcome(reference / "out")
        # What the killed ones left is gone with the next run, unless the last was killed while it cleaned up.
        assert code == -signal.SIGKILL or not leftovers(folder)
        shutil.rmtree(folder)
    # The moments were spread over the run.
    assert len(at) >= stages, at


@pytest.mark.slow
def test_killed_while_it_measures_a_profile_of_its_own_and_resumed(
    server: Server, one_layer: Path, data_csv: Path, tmp_path: Path
) -> None:
    """Measurements differ from run to run: what was measured before the kill is what the result rests on."""
    options = {"--data": data_csv, "--eval-data": data_csv, "--seq-len": LENGTH, "--samples": 40, "--speedup": 1.2}
    given = ["run", one_layer, *(part for pair in options.items() for part in pair)]
    cache = tmp_path / "cache"

    def stored(stage: str) -> bool:
        return any(entry.stage == stage for entry in Store(cache / "results").entries())

    for number, stage in enumerate(("profile", "check", "reconstruct", "validate")):
        run = server.start(cache, *given, "--output", tmp_path / "out", *(["--resume"] if number else []))
        run.until(lambda stage=stage: stored(stage))  # type: ignore[misc]
        run.kill()
        assert run.wait() == -signal.SIGKILL
    kept = made(cache)
    for name in ("out", "again"):
        run = server.start(cache, *given, "--output", tmp_path / name, "--resume")
        ended_well(run)
    assert kept.items() <= made(cache).items()
    assert outcome(tmp_path / "out") == outcome(tmp_path / "again")
    profile = next(entry for entry in Store(cache / "results").entries() if entry.stage == "profile")
    taken = json.loads((profile.path / "result.json").read_text())["date"]
    assert json.loads((tmp_path / "out" / "profile.json").read_text())["date"] == taken


@pytest.mark.e2e
def test_two_runs_with_one_output_do_not_mix(
    server: Server, arguments: list[Any], reference: Path, cache: Path, tmp_path: Path
) -> None:
    first = server.start(cache, *arguments, "--output", tmp_path / "out", "--resume")
    first.until(lambda: len(list(tmp_path.glob(".out.partial-*"))) == 2)
    first.kill(signal.SIGSTOP)
    second = server.start(cache, *arguments, "--output", tmp_path / "out")
    assert second.wait() == 3
    assert re.search(rf"being written by another run \(process {first.pid} on .*\); wait for it", second.said)
    # What the live one has is left alone.
    assert len(list(tmp_path.glob(".out.partial-*"))) == 2
    first.kill(signal.SIGCONT)
    ended_well(first)
    assert outcome(tmp_path / "out") == outcome(reference / "out")
    assert not leftovers(tmp_path)


@pytest.mark.e2e
def test_what_a_killed_run_left_goes_with_the_next(
    server: Server, arguments: list[Any], cache: Path, tmp_path: Path
) -> None:
    run = server.start(cache, *arguments, "--output", tmp_path / "out", "--resume")
    run.until(lambda: len(list(tmp_path.glob(".out.partial-*"))) == 2)
    run.kill()
    run.wait()
    assert len(list(tmp_path.glob(".out.*"))) == 3
    # Of another output, and not made by this program.
    others = {".outer.partial-01234567", ".out.partial-mine"}
    for name in others:
        (tmp_path / name).mkdir()
    ended_well(server.start(cache, *arguments, "--output", tmp_path / "out", "--resume"))
    assert leftovers(tmp_path) == others


@pytest.mark.e2e
def test_two_runs_with_one_cache_do_not_disturb_each_other(
    server: Server, arguments: list[Any], reference: Path, cache: Path, tmp_path: Path
) -> None:
    store = Store(cache / "results")
    for entry in store.entries():
        if entry.stage not in ("dense", "form"):
            store.remove(entry)
    runs = [server.start(cache, *arguments, "--output", tmp_path / name, "--resume") for name in ("a", "b")]
    for run, name in zip(runs, ("a", "b"), strict=True):
        ended_well(run)
        assert "is damaged and not used" not in run.said
        assert outcome(tmp_path / name) == outcome(reference / "out")


@pytest.mark.e2e
def test_damaged_results_are_named_never_used_and_made_again(
    server: Server, arguments: list[Any], reference: Path, cache: Path, tmp_path: Path
) -> None:
    """Each in a way of its own; every way on every file is in ``test_store.py``."""
    store = Store(cache / "results")
    # A form that is timed anew may be another one, and then exported files are not damaged but not asked for.
    entries = [entry for entry in store.entries() if entry.stage != "form"]
    stages = {entry.stage for entry in entries}
    for number, entry in enumerate(entries):
        how = ("cut off", "flipped", "version")[number % 3]
        file = entry.path / RECORD
        if how != "version":
            file = max((f for f in entry.path.rglob("*") if f.is_file() and f.name != RECORD), key=lambda f: f.name)
        content = file.read_bytes()
        middle = len(content) // 2
        if how == "cut off":
            file.write_bytes(content[:middle])
        elif how == "flipped":
            file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        else:
            file.write_bytes(content.replace(b'"format":1', b'"format":9'))
    run = server.start(cache, *arguments, "--output", tmp_path / "out", "--resume")
    ended_well(run)
    said = {m[1] for m in re.finditer(r"stored result of '([a-z-]+)' is damaged and not used", run.said)}
    assert said == stages
    assert outcome(tmp_path / "out") == outcome(reference / "out")
    # What was made again is sound.
    again = server.start(cache, *arguments, "--output", tmp_path / "again", "--resume")
    ended_well(again)
    assert "is damaged and not used" not in again.said
    assert outcome(tmp_path / "again") == outcome(reference / "out")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system of its own, so many MB, below the test's directory; read only where asked to be."""
    mounted: list[Path] = []

    def mount(name: str, megabytes: int, options: str = "rw") -> Path:
        place = tmp_path / name
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,{options}", "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount here")
        if done.returncode:
            pytest.skip(f"mounting takes rights that this user lacks: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(folder: Path) -> None:
    """Take all that is left of a disk."""
    with (folder / "filler").open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    stream.write(b"x" * size)
            except OSError:
                continue


@pytest.mark.e2e
def test_a_disk_that_fills_up_is_said_and_nothing_is_left(
    server: Server, arguments: list[Any], cache: Path, small_disk: Callable[..., Path]
) -> None:
    disk = small_disk("disk", 80)
    # Once while files are copied from the cache, once while they are made.
    for resume in (["--resume"], []):
        run = server.start(cache, *arguments, "--output", disk / "out", *resume)
        run.until(lambda: len(list(disk.glob(".out.partial-*"))) == 2)
        fill(disk)
        assert run.wait() == 3
        assert "the disk is full" in run.said and "Traceback" not in run.said
        assert {path.name for path in disk.iterdir()} == {"filler"}
        (disk / "filler").unlink()


@pytest.mark.e2e
def test_an_output_on_a_disk_that_is_read_only(
    server: Server, arguments: list[Any], cache: Path, small_disk: Callable[..., Path]
) -> None:
    disk = small_disk("disk", 80, "ro")
    run = server.start(cache, *arguments, "--output", disk / "out", "--resume")
    assert run.wait() == 3
    assert "Read-only file system; choose another --output" in run.said and "Traceback" not in run.said


@pytest.mark.e2e
@pytest.mark.parametrize("how", ["full", "read only"])
def test_a_cache_that_cannot_be_written_to_is_read_and_costs_the_run_nothing(
    server: Server,
    arguments: list[Any],
    reference: Path,
    small_disk: Callable[..., Path],
    tmp_path: Path,
    how: str,
) -> None:
    disk = small_disk("disk", 300)
    shutil.copytree(reference / "cache", disk / "cache")
    if how == "full":
        fill(disk)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    run = server.start(disk / "cache", *arguments, "--int8-drop", "0.5", "--output", tmp_path / "out", "--resume")
    ended_well(run)
    assert "reconstruct (tiny-bert): stored" in run.said
    assert "the result of 'export' is not stored for --resume: " in run.said
    assert outcome(tmp_path / "out") == outcome(reference / "out")
    assert not list(disk.rglob(".partial-*"))


@pytest.mark.e2e
def test_equal_inputs_seed_and_profile_give_equal_bytes_with_no_cache_and_places_below_files_take_nothing(
    server: Server, arguments: list[Any], reference: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    run = server.start(cache, *arguments, "--output", tmp_path / "file" / "out", "--resume")
    assert run.wait() == 3
    assert "Not a directory; choose another --output" in run.said
    run = server.start(tmp_path / "file" / "cache", *arguments, "--output", tmp_path / "out")
    ended_well(run)
    # Nothing that could be read: and it is the same bytes, which is the promise for equal inputs, seed and profile.
    assert "used again" not in run.said and "not stored for --resume" in run.said
    assert outcome(tmp_path / "out") == outcome(reference / "out")


def configured(arguments: list[Any], output: Path, **options: Any) -> RunConfig:
    values = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    return RunConfig(
        model=str(arguments[1]),
        data=str(values["--data"]),
        eval_data=str(values["--data"]),
        seq_len=LENGTH,
        samples=40,
        output=output,
        allow_chance=True,
        **{"profile": values["--profile"], "macs": 0.5, **options},
    )


@pytest.mark.e2e
def test_a_clock_that_goes_back_disturbs_nothing(
    arguments: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    hours = iter(range(10**6))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600.0 * next(hours))
    monkeypatch.setattr("compress.stages.present_device.FORM_SECONDS", 0.02)
    monkeypatch.setattr("compress.stages.validate.MEASURE_SECONDS", (0.05,))
    first = pipeline.run(configured(arguments, tmp_path / "out"))
    assert all(0 <= seconds < 3600 for seconds in first.seconds.values())
    rows = pipeline.foresee(configured(arguments, tmp_path / "again"))
    assert rows and all(row.stored and row.age_seconds is not None and row.age_seconds >= 0 for row in rows)
    assert pipeline.run(configured(arguments, tmp_path / "again"), resume=True).plan == first.plan


@pytest.mark.e2e
def test_a_dry_run_refuses_what_the_run_would_refuse(
    arguments: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = as_options(arguments, "--allow-chance", "--dry-run", "--output")
    assert cli.main([*given, str(tmp_path / "out")]) == 0
    assert "would end at once" not in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    (tmp_path / "taken").write_text("")
    # What is stored is worth knowing all the same.
    assert cli.main([*given, str(tmp_path / "taken")]) == 0
    assert "the run would end at once: output" in capsys.readouterr().err
    assert cli.main([*given, str(tmp_path / "out"), "--fine-prune", "nosuch"]) == 3
    assert "nosuch" in capsys.readouterr().err


def as_options(arguments: list[Any], *more: Any) -> list[str]:
    return [str(part) for part in (*arguments, *more)]


@pytest.mark.e2e
def test_activations_that_are_no_numbers_name_the_layer(
    make_checkpoint: MakeCheckpoint, data_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    model = make_checkpoint("bert", seed=7)
    weights = load_file(str(model / "model.safetensors"))
    name = next(n for n in weights if "layer.2.intermediate.dense.weight" in n)
    # Sound numbers each, whose products are none.
    weights[name] = torch.full_like(weights[name], 1e38)
    save_file(weights, str(model / "model.safetensors"), metadata={"format": "pt"})
    given = [
        "run",
        model,
        "--allow-chance",
        "--data",
        data_csv,
        "--macs",
        "0.5",
        "--method",
        "kwon",
        "--seq-len",
        LENGTH,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "profiles_of", lambda *_: [])
        code = cli.main(as_options(given, "--output", tmp_path / "out"))
    said = capsys.readouterr().err
    assert code == 3 and "the output of encoder layer 2 has NaN or infinite values" in said
    assert "Traceback" not in said and not list(tmp_path.iterdir())


@pytest.mark.e2e
def test_a_session_that_does_not_start(
    arguments: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model file that the runtime, the real one, refuses."""
    import onnx

    original = dense_model.write_onnx

    def of_another_runtime(model: Any, path: Path, loaded: Any) -> None:
        original(model, path, loaded)
        written = onnx.load(str(path))
        written.graph.node[-1].op_type = "OfAnotherRuntime"
        onnx.save(written, str(path))

    monkeypatch.setattr("compress.stages.dense_model.write_onnx", of_another_runtime)
    monkeypatch.setattr("compress.stages.present_device.FORM_SECONDS", 0.02)
    code = cli.main(as_options(arguments, "--allow-chance", "--output", tmp_path / "out"))
    said = capsys.readouterr().err
    assert code == 3 and "Traceback" not in said
    assert re.search(r"ONNX Runtime .* cannot load .*OfAnotherRuntime", said), said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_kill_9_of_the_command_line_then_resume(
    arguments: list[Any], reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of the promise: ``kill -9`` during ``compress run``, then ``--resume``."""
    environment = {**os.environ, "COMPRESS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "compress", *as_options(arguments, "--allow-chance", "--output", tmp_path / "out")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    store = Store(tmp_path / "cache" / "results")
    while not any(entry.stage == "reconstruct" for entry in store.entries()):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists() and leftovers(tmp_path)
    done = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1, 2), done.stderr
    check_verdict(tmp_path / "out", done.returncode)
    assert "used again" in done.stderr
    assert outcome(tmp_path / "out") == outcome(reference / "out")
    assert not leftovers(tmp_path)
