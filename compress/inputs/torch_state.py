"""Torch's process-wide state: the library's own values while something is computed, the caller's again afterwards.

A program that calls this package may have set another default dtype, or be inside ``torch.inference_mode()``. Results
must not depend on it, and the program must not notice the call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from compress.core.cores import usable_cores


@contextmanager
def own_torch_state() -> Iterator[None]:
    """Sets torch's process-wide state for the block, and gives the caller's back at its end, on errors too.

    Inside: float32, the processor as default device, gradients, no inference mode or autocast, no deterministic
    algorithms, no TF32, no more threads than usable cores (``core/cores.py``), and random numbers from seed 0, those of
    NumPy and Python too. It is also a decorator.
    """
    import numpy as np
    import torch

    with ExitStack() as undo:
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            undo.enter_context(torch.device("cpu"))
        # Asked first: entering it costs more than asking.
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                undo.enter_context(torch.autocast(kind, enabled=False))
        for read, write, value in _settings():
            before = read()
            undo.callback(write, before)
            if value is not None and before != value:
                write(value)
        if torch.cuda.is_initialized():
            undo.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        # Not torch.manual_seed: without a GPU in use it would leave seeds for one behind.
        generator = torch.default_generator
        undo.callback(generator.set_state, generator.get_state())
        undo.callback(np.random.set_state, np.random.get_state())
        undo.callback(random.setstate, random.getstate())
        generator.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        yield


def _settings() -> list[tuple[Callable[[], Any], Callable[[Any], Any], Any]]:
    """Returns how to read and to write each setting, and its value inside a block; None leaves it as it is."""
    import torch

    def flag(owner: Any, name: str, value: bool) -> tuple[Callable[[], Any], Callable[[Any], Any], Any]:
        return lambda: getattr(owner, name), lambda new: setattr(owner, name, new), value

    def deterministic(mode: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])

    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    settings: list[tuple[Callable[[], Any], Callable[[Any], Any], Any]] = [
        (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        (torch.get_num_threads, torch.set_num_threads, min(torch.get_num_threads(), usable_cores())),
        (
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            deterministic,
            (False, False),
        ),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False),
        flag(cudnn, "enabled", True),
        flag(cudnn, "benchmark", False),
        flag(cudnn, "deterministic", False),
        (cuda.flash_sdp_enabled, cuda.enable_flash_sdp, True),
        (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp, True),
        (cuda.math_sdp_enabled, cuda.enable_math_sdp, True),
        (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp, True),
    ]
    try:
        # A caller that has used torch's newer names for precisions cannot be asked by the older ones.
        torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:
        return settings
    return [
        *settings,
        flag(cudnn, "allow_tf32", False),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    ]
