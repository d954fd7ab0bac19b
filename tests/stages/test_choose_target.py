"""Of several targets on this machine the fastest is taken, beyond noise; what cannot be used is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compress.core.errors import ProfileError, TargetError
from compress.core.statistics import Interval
from compress.export.lowering import Engine
from compress.export.measure import LatencyComparison
from compress.inputs.load import load_model
from compress.options.run_config import RunConfig
from compress.profile.target import load_target
from compress.stages import choose_target
from compress.stages.context import Run
from compress.stages.open_device import open_device
from compress.stages.stage import Stages
from support.runs import configured, measure_briefly, run
from support.structures import undecided


class Said(Stages):
    """Stages that remember nothing but what was said."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(info=self.info))  # type: ignore[arg-type]
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


def _contenders(planted: Mapping[str, float], patch: pytest.MonkeyPatch, noise: float) -> list[Any]:
    """Contenders whose halves take so many milliseconds, as timed with an interval of plus and minus ``noise``."""

    def compared(first: Any, other: Any, _feed: Any, seconds: float) -> LatencyComparison:
        ratio = first.ms / other.ms
        speedup = Interval(ratio, ratio * (1 - noise), ratio * (1 + noise))
        return LatencyComparison(*(Interval(one.ms, one.ms, one.ms) for one in (first, other)), speedup, rounds=9)

    patch.setattr(choose_target, "compare_latency", compared)
    patch.setattr(choose_target, "open_session", lambda half, _: SimpleNamespace(ms=float(half), close=lambda: None))
    cpu = load_target("cpu")
    return [choose_target._Contender(name, cpu, Engine(), str(ms).encode(), {}) for name, ms in planted.items()]


@pytest.mark.parametrize(
    ("planted", "noise", "expected"),
    [
        ({"a": 3.0, "b": 2.0}, 0.1, "b"),
        ({"a": 2.0, "b": 3.0}, 0.1, "a"),
        ({"a": 2.1, "b": 2.0}, 0.1, "a"),
        ({"a": 2.1, "b": 2.0}, 0.01, "b"),
        ({"a": 3.0, "b": 2.0, "c": 1.0}, 0.1, "c"),
        ({"a": 3.0, "b": 1.0, "c": 2.0}, 0.1, "b"),
    ],
)
def test_the_first_is_taken_unless_another_is_faster_beyond_noise(
    planted: dict[str, float], noise: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, times = choose_target._fastest(_contenders(planted, monkeypatch, noise))
    assert chosen.name == expected
    assert times == list(planted.values())


@pytest.fixture
def auto(make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Run:
    measure_briefly(monkeypatch)
    config = RunConfig(model=str(make_checkpoint("bert")), macs=0.5, seq_len=24, target="auto-cpu")
    return Run(config, load_model(config), Said())


def _said(found: Run) -> list[str]:
    assert isinstance(found.stages, Said)
    return found.stages.lines


def _without(runtimes: tuple[str, ...], patch: pytest.MonkeyPatch) -> None:
    def require(target: Any) -> None:
        if target.runtime in runtimes:
            raise TargetError(f"{target.name} lacks something")

    patch.setattr(choose_target, "require_runtime", require)


def test_without_openvino_it_is_the_target_cpu_and_says_so(
    auto: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without(("openvino",), monkeypatch)
    opened = open_device(auto, tmp_path)
    opened.device.close()
    assert (opened.config.target, opened.loaded.target) == ("cpu", load_target("cpu"))
    assert "auto-cpu: cpu is taken: nothing else" in _said(auto)[-1]
    assert "not cpu-openvino: cpu-openvino lacks something" in _said(auto)[-1]


def test_where_none_can_be_used_each_says_why(auto: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without(("openvino", "onnxruntime-cpu"), monkeypatch)
    with pytest.raises(TargetError, match=r"'auto-cpu'.*not cpu: cpu lacks.*not cpu-openvino: cpu-openvino lacks"):
        choose_target.fastest_target(auto, tmp_path / "dense.onnx")


def test_a_given_profile_chooses_its_own_target(auto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {name: auto.for_target(load_target(name), name) for name in auto_names()}
    taken = ""

    def given(one: Run) -> None:
        if one.loaded.target.name != taken:
            raise ProfileError(f"it is not of {one.loaded.target.name}")

    monkeypatch.setattr(choose_target, "given_profile", given)
    for taken in named:
        assert choose_target._of_profile(named).name == taken
    taken = "another"
    with pytest.raises(ProfileError, match=r"not of cpu$"):
        choose_target._of_profile(named)


def auto_names() -> tuple[str, ...]:
    return load_target("auto-cpu").one_of


@pytest.mark.e2e
def test_an_artifact_is_for_the_target_that_was_chosen(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_briefly(monkeypatch, candidates=0, epochs=0)
    model = make_checkpoint("bert")
    out = tmp_path / "out"
    run(configured(model, undecided(model, tmp_path, 24), out, target="auto-cpu", macs=0.5))
    chosen = json.loads((out / "validation.json").read_text())["deployment"]["target"]
    assert chosen in auto_names()
    assert json.loads((out / "manifest.json").read_text())["configuration"]["target"] == chosen
