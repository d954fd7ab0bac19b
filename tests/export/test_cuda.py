"""The CUDA session up to the edge: real options, real I/O binding (on the processor), refusals; the GPU itself where
there is one."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from compress.core.errors import ExportError, TargetError
from compress.core.plan import EncoderShape
from compress.export import cuda
from compress.export.runtime import open_session, refuse_absent
from compress.profile import gpu
from compress.profile.device import provenance
from compress.profile.target import Target, load_target
from support.encoder_graph import encoder_graph

SHAPE = EncoderShape("bert", 2, 16, 2, 8, 24)
FEED = {"input_ids": np.array([[3, 1, 4], [1, 5, 9]], np.int64)}
V100 = gpu.Gpu("Tesla V100-SXM2-16GB", "7.0", "535.183.01", 16384, 1530, 135)
ON_CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)


def _as_if(monkeypatch: pytest.MonkeyPatch, *found: gpu.Gpu) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: found)
    monkeypatch.setattr(cuda, "gpus", lambda: found)


def test_bound_inputs_and_outputs_answer_as_an_ordinary_session_does() -> None:
    model = encoder_graph(SHAPE, SHAPE.dense)
    bound = cuda.BoundSession(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]), "cpu")
    expected = open_session(model, ON_CPU).run(FEED)
    assert np.array_equal(bound.run({**FEED, "unused": FEED["input_ids"]}), expected)
    # Another batch and length: nothing bound before is left over.
    longer = {"input_ids": np.ones((3, 5), np.int64)}
    assert bound.run(longer).shape[0] == 3
    # The same shape again, other values: what is bound is filled anew, and answers given before stay.
    first, again = bound.run(FEED), {"input_ids": FEED["input_ids"] + 1}
    assert np.array_equal(bound.run(again), open_session(model, ON_CPU).run(again))
    assert np.array_equal(first, expected)
    with pytest.raises(ExportError, match="no CUDA stream"):
        bound.without_copies(FEED)
    with pytest.raises(ExportError, match="needs input 'input_ids'"):
        bound.run({})
    with pytest.raises(ExportError, match=r"could not run the model on inputs .*\(2,\)"):
        bound.run({"input_ids": np.ones(2, np.int64)})
    bound.close()
    with pytest.raises(ExportError, match="closed"):
        bound.run(FEED)


def test_options_are_texts_that_name_the_gpu() -> None:
    (name, options), (last, _) = cuda.provider_options(3)
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["device_id"] == "3" and "user_compute_stream" not in options
    assert cuda.provider_options(0, 1234)[0][1]["user_compute_stream"] == "1234"
    assert all(isinstance(value, str) for value in options.values())


def test_a_target_that_is_elsewhere_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    _as_if(monkeypatch)
    with pytest.raises(TargetError, match=r"'v100' is not on this machine.*compute capability 7.0.*no GPU.*--estimate"):
        refuse_absent(load_target("v100"))
    with pytest.raises(TargetError, match="nvidia-smi shows no GPU"):
        open_session(b"", load_target("v100"))
    _as_if(monkeypatch, V100)
    with pytest.raises(TargetError, match=r"shows Tesla V100-SXM2-16GB \(7.0\)"):
        refuse_absent(load_target("a100"))
    refuse_absent(load_target("v100"))
    refuse_absent(load_target("cpu"))


def test_a_gpu_without_its_provider_is_a_problem_not_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    _as_if(monkeypatch, V100)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(TargetError, match=r"is here, but cannot be used: .*no CUDAExecutionProvider.*compress\[gpu\]"):
        open_session(b"", load_target("v100"))


def test_provenance_follows_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    _as_if(monkeypatch)
    bare = Target(name="mine", device="a box", runtime="onnxruntime-cuda", precision="fp16")
    assert [provenance(t) for t in (load_target("cpu"), load_target("v100"), bare)] == [
        "measured here",
        "estimated",
        "none",
    ]
    _as_if(monkeypatch, V100)
    assert provenance(load_target("v100")) == "measured here"
    assert provenance(load_target("a100")) == "estimated"
