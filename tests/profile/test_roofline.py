"""Laws of estimates: more work never takes less time, no kernel beats the data sheet, tiles are paid for whole."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import TargetError
from compress.core.plan import EncoderShape
from compress.profile.latency_profile import Profile
from compress.profile.roofline import (
    Kernel,
    Roofline,
    attention_kernels,
    elementwise,
    estimate_profile,
    ffn_kernels,
    product,
)
from compress.profile.target import ENGINE_RUNTIMES, Target, list_targets, load_target

BERT = EncoderShape("bert", 12, 768, 12, 64, 3072)
WITH_SHEET = [target for target in list_targets() if not target.missing_for("fp16")]
SIMPLE = Roofline(flops=1e12, bytes_per_second=1e11, launch_s=0.0, processors=10, tiles=((64, 64),))
SIZES = st.integers(1, 600)


def test_every_shipped_gpu_has_a_data_sheet() -> None:
    names = {"v100", "t4", "a100", "h100", "l4", "jetson-orin"}
    rtx = {"t4-rtx", "l4-rtx", "a100-rtx", "rtx-3090", "rtx-4090", "rtx-5090"}
    compiled = {"h100-aotinductor"}
    assert {target.name for target in WITH_SHEET} == names | {f"{name}-tensorrt" for name in names} | rtx | compiled


@given(rows=SIZES, columns=SIZES, inner=SIZES, size=st.sampled_from([2, 4]))
def test_a_product_takes_at_least_what_the_data_sheet_allows(rows: int, columns: int, inner: int, size: int) -> None:
    kernel = product(1, rows, columns, inner, size)
    operations, moved = 2 * rows * columns * inner, size * (rows * inner + inner * columns + rows * columns)
    assert SIMPLE.seconds(kernel) >= max(operations / SIMPLE.flops, moved / SIMPLE.bytes_per_second) * (1 - 1e-12)


@given(rows=SIZES, columns=SIZES, inner=SIZES)
def test_more_rows_columns_or_terms_never_take_less(rows: int, columns: int, inner: int) -> None:
    now = SIMPLE.seconds(product(1, rows, columns, inner, 4))
    for wider in ((rows + 1, columns, inner), (rows, columns + 1, inner), (rows, columns, inner + 1)):
        assert SIMPLE.seconds(product(1, *wider, 4)) >= now


def test_tiles_and_waves_are_paid_for_whole() -> None:
    computing = [SIMPLE.computing(product(1, rows, 64, 1024, 4)) for rows in (1, 64, 65, 640, 641)]
    one_tile = 2 * 64 * 64 * 1024 / (SIMPLE.flops / SIMPLE.processors)
    # Ten processors take ten tiles at once: the eleventh is a wave of its own.
    assert computing == pytest.approx([one_tile, one_tile, one_tile, one_tile, 2 * one_tile])


def test_more_tile_sizes_never_make_it_slower() -> None:
    kernel = product(1, 70, 70, 512, 4)
    assert replace(SIMPLE, tiles=((64, 64), (128, 128))).seconds(kernel) <= SIMPLE.seconds(kernel)


def test_an_elementwise_kernel_is_bound_by_memory_and_its_launch() -> None:
    roofline = replace(SIMPLE, launch_s=5e-6)
    assert roofline.seconds(elementwise(1000, 4)) == pytest.approx(8000 / 1e11 + 5e-6)
    assert roofline.ms([Kernel(0.0)] * 3) == pytest.approx(0.015)


def test_removed_sublayers_launch_nothing_and_fused_ones_less() -> None:
    for kernels in (attention_kernels, ffn_kernels):
        assert kernels(BERT, 0, 1, 64, 2, False) == []
        assert 0 < len(kernels(BERT, 4, 1, 64, 2, True)) < len(kernels(BERT, 4, 1, 64, 2, False))


@pytest.mark.parametrize("target", WITH_SHEET, ids=lambda target: target.name)
def test_estimates_are_profiles_that_say_so(target: Target) -> None:
    profile = estimate_profile(BERT, target, "fp16", 8, 64)
    assert profile.source == "estimated"
    assert "measured" not in str({k: v for k, v in profile.device.items() if k != "source"})
    assert Profile.from_json(profile.to_json()) == profile
    assert profile.median_error is None
    # Speed-ups are against float32, which no tensor core helps.
    assert profile.dense_ms > profile.table.dense_ms
    assert estimate_profile(BERT, target, "fp32", 8, 64).dense_ms == pytest.approx(profile.dense_ms)
    longer, more = estimate_profile(BERT, target, "fp16", 8, 128), estimate_profile(BERT, target, "fp16", 64, 64)
    assert profile.table.dense_ms < min(longer.table.dense_ms, more.table.dense_ms)
    fused, unfused = (estimate_profile(BERT, target, "fp16", 8, 64, fused=how).table.dense_ms for how in (True, False))
    assert fused < unfused
    assert profile.table.dense_ms == (fused if target.runtime in ENGINE_RUNTIMES else unfused)


def test_a_faster_device_is_estimated_faster() -> None:
    def ms(name: str) -> float:
        return estimate_profile(BERT, load_target(name), "fp16", 32, 128).table.dense_ms

    assert ms("h100") < ms("a100") < ms("v100") < ms("t4") < ms("jetson-orin")


def test_large_batches_come_near_the_roof() -> None:
    target = load_target("a100")
    dense = estimate_profile(BERT, target, "fp16", 256, 128).table.dense_ms
    assert target.peak_flops is not None
    least = 2 * 256 * BERT.macs(BERT.dense, 128) / target.peak_flops["fp16"] * 1e3
    assert least < dense < 3 * least and math.isfinite(dense)


def test_what_a_sheet_lacks_is_named() -> None:
    bare = Target(name="mine", device="a box", runtime="tensorrt", precision="fp16", peak_flops={"fp32": 1e13})
    with pytest.raises(TargetError, match=r"lacks peak_flops.fp16, memory_bandwidth_gb_s.*compress profile"):
        estimate_profile(BERT, bare, "fp16", 1, 64)
