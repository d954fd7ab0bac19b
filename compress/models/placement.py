"""Where tensors lie: on the device that PyTorch computes on, beside it on the host, and where float64 is.

The device is never stated twice: it is where a model's weights are, and everything else follows the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.core.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Part of a GPU's free memory that is taken for what could lie on the host as well.
_SHARE = 0.5


def device_of(model: nn.Module) -> torch.device:
    """Returns the device that a model's weights lie on; the processor for a model without weights.

    Raises:
        ModelError: they lie on several.
    """
    import torch

    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        names = " and ".join(sorted(str(device) for device in devices))
        raise ModelError(f"the model's weights lie on {names}; move all of them to one device: model.to('cpu')")
    return devices.pop() if devices else torch.device("cpu")


def same_device(one: nn.Module, other: nn.Module) -> torch.device:
    """Returns the device of two models that are run side by side.

    Args:
        one: a model.
        other: another one.

    Raises:
        ModelError: they lie on different devices.
    """
    first, second = device_of(one), device_of(other)
    if first != second:
        raise ModelError(
            f"one model lies on {first}, the other on {second}; move both to one device first: model.to('{first}')"
        )
    return first


def exact_device(device: torch.device) -> torch.device:
    """Returns where float64 is computed for tensors on a device: there, or on the processor where it has none (mps)."""
    import torch

    return torch.device("cpu") if device.type == "mps" else device


def exact(tensor: Tensor) -> Tensor:
    """Returns a tensor in float64, on ``exact_device``."""
    return tensor.to(exact_device(tensor.device)).double()


def exact_sum(tensor: Tensor) -> float:
    """Returns the sum of a tensor's elements, summed in float64."""
    import torch

    return float(tensor.to(exact_device(tensor.device)).sum(dtype=torch.float64))


def moved(value: Any, device: torch.device) -> Any:
    """Returns a value with all tensors in it on a device; tuples, lists and dictionaries are looked into.

    Args:
        value: of any type.
        device: where tensors go.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(moved(part, device) for part in value)
    if type(value) is dict:
        return {name: moved(part, device) for name, part in value.items()}
    return value


def roomy(device: torch.device, size: int) -> torch.device:
    """Returns where to keep tensors that grow with the number of examples.

    Args:
        device: where they are computed.
        size: their bytes in all.

    Returns:
        The device, or the processor where they would take more than half of a GPU's free memory.
    """
    import torch

    free = free_bytes(device)
    return torch.device("cpu") if free is not None and size > _SHARE * free else device


def free_bytes(device: torch.device) -> int | None:
    """Returns the memory that a GPU has left for this process; None where the host's memory is meant, or none tells.

    Args:
        device: in use already, since asking takes a place on it.
    """
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What PyTorch holds for later is free too.
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return None
