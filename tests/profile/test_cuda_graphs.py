"""A profile taken with CUDA graphs is another one than without: in its device, its key, and where it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.errors import ProfileError, TargetError
from compress.profile.cuda_graphs import CudaGraphs
from compress.profile.device import check_device, describe_device
from compress.profile.target import load_target
from compress.stages.cache_keys import device_inputs, target_inputs


def test_a_target_file_states_shapes(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('like = "h100"\n[cuda_graphs]\nbatch_size = [1, 8]\nseq_len = [32, 64]\n')
    target = load_target(str(file)).for_calls(1, 64)
    assert target.cuda_graphs is not None
    assert str(target.cuda_graphs) == "1 x 32, 1 x 64, 8 x 32, 8 x 64"
    file.write_text('like = "h100"\npadding = "any"\n[cuda_graphs]\n')
    assert load_target(str(file)).for_calls(2, 16).cuda_graphs == CudaGraphs(batch_size=(2,), seq_len=(16,))
    file.write_text('like = "cpu"\n[cuda_graphs]\n')
    with pytest.raises(TargetError, match="onnxruntime-cpu captures no CUDA graphs"):
        load_target(str(file))
    file.write_text('like = "h100"\n[cuda_graphs]\nlengths = [1]\n')
    with pytest.raises(TargetError, match=r"cuda_graphs\.lengths"):
        load_target(str(file))
    file.write_text('like = "h100"\npadding = "left"\n')
    with pytest.raises(TargetError, match="padding"):
        load_target(str(file))


def test_a_profile_with_graphs_is_another_profile() -> None:
    without = load_target("h100").for_calls(1, 64)
    with_graphs = without.model_copy(update={"cuda_graphs": CudaGraphs()}).for_calls(1, 64)
    described = [describe_device(target) for target in (without, with_graphs)]
    assert "cuda_graphs" not in described[0] and described[1]["cuda_graphs"] == "1 x 64"
    assert target_inputs(without) != target_inputs(with_graphs)
    assert device_inputs(without) != device_inputs(with_graphs)
    check_device(described[0], without)
    check_device(described[1], with_graphs)
    with pytest.raises(ProfileError, match="measured without CUDA graphs, and target 'h100' says otherwise"):
        check_device(described[0], with_graphs)
    with pytest.raises(ProfileError, match=r"measured with CUDA graphs \(1 x 64\), and target 'h100'"):
        check_device(described[1], without)
    # An estimate knows nothing of graphs, and serves both.
    check_device({}, with_graphs)
