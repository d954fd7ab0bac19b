"""What a call of a model is given: inputs by name, what they look like, which of their axes vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from compress.core.errors import ExportError
from compress.models.encoder import IMAGES, MASK, image_input, longest_input

if TYPE_CHECKING:
    from torch import Tensor


def traced(names: Sequence[str], config: Any) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Examples of inputs to export a model with, and the axes of each that vary.

    Args:
        names: of the inputs: ``pixel_values`` are float32 [batch, channels, height, width], of which the batch varies;
            all others int64 [batch, sequence], of which both do.
        config: the model's.
    """
    import torch

    # Above 1, different, and at most the model's length: the tracer takes a size of 1 or two equal sizes for constants.
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


def inputs_of(feed: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays that a model takes; what else is in the feed is left out.

    Raises:
        ExportError: one is missing.
    """
    missing = [name for name in names if name not in feed]
    if missing:
        raise ExportError(
            f"the model needs input {', '.join(map(repr, missing))}, the feed has "
            f"{', '.join(sorted(feed)) or 'nothing'}; make inputs with the artifact's own tokenizer or image processor"
        )
    return {name: feed[name] for name in names}
