"""Inputs of exported models: examples to trace with, and the arrays of a batch that a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from compress.core.errors import ExportError
from compress.models.encoder import IMAGES, MASK, image_input, longest_input

if TYPE_CHECKING:
    from torch import Tensor


def example_inputs(names: Sequence[str], config: Any) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Make example inputs to export a model with, and the dynamic axes of each.

    Args:
        names: names of the inputs. ``pixel_values`` are float32 [batch, channels, height, width] with a dynamic batch;
            all others are int64 [batch, sequence] with both axes dynamic.
        config: the model's configuration.

    Returns:
        A tensor for each input, and for each the dynamic axes by number.
    """
    import torch

    # Sizes above 1, different, and within the model's length: the tracer takes 1, or two equal sizes, for constants.
    longest = longest_input(config) or 512
    batch = torch.export.Dim("batch", min=1)
    image = image_input(config)
    inputs: list[Tensor] = []
    axes: list[dict[int, Any]] = []
    for name in names:
        if name == IMAGES and image is not None:
            inputs.append(torch.zeros(2, image.channels, image.height, image.width))
            axes.append({0: batch})
        else:
            inputs.append(torch.full((2, min(16, longest)), int(name == MASK), dtype=torch.int64))
            axes.append({0: batch, 1: torch.export.Dim("sequence", min=1, max=longest)})
    return tuple(inputs), tuple(axes)


def select_inputs(feed: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Select the arrays of a feed that a model takes.

    Args:
        feed: arrays by input name; may have more than the model takes.
        names: the model's inputs.

    Returns:
        Arrays by name.

    Raises:
        ExportError: an input is missing from the feed.
    """
    missing = [name for name in names if name not in feed]
    if missing:
        raise ExportError(
            f"the model needs input {', '.join(map(repr, missing))}, the feed has "
            f"{', '.join(sorted(feed)) or 'nothing'}; make inputs with the artifact's own tokenizer or image processor"
        )
    return {name: feed[name] for name in names}
