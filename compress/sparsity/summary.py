"""Results of a sparse model for files, the terminal and the report, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.artifact.validation import CompactSize, LayerWeights, StoredTensors, Weights, WeightsMetric

if TYPE_CHECKING:
    from compress.models.encoder import Encoder
    from compress.sparsity.compact_file import Stored

_HOW = {
    "steps": "int8, zeros left out, places as steps",
    "bitmap": "int8, zeros left out, places as a bitmap",
    "rows": "int8, one scale per row",
    "half": "float16",
    "plain": "as they are",
}


def weights_section(
    encoder: Encoder,
    model: Any,
    state: Mapping[str, Stored],
    *,
    asked: float,
    metric: WeightsMetric,
    files: tuple[int, int],
) -> Weights:
    """The section of validation.json on single weights.

    Args:
        encoder: the dense model.
        model: with the masks multiplied in.
        state: how every tensor is stored in the compact file.
        asked: fraction that was to stay.
        metric: of the dense model, the masked checkpoint and the compact file.
        files: bytes of the dense float32 file and of the compact one.
    """
    from compress.sparsity.matrices import matrices_of

    weights = model.state_dict()
    names = list(matrices_of(encoder))
    layers = []
    for layer in encoder:
        own = [name for name in names if name.startswith(f"{layer.prefix}.")]
        elements = sum(weights[name].numel() for name in own)
        kept = sum(int(weights[name].count_nonzero()) for name in own)
        layers.append(LayerWeights(layer=layer.number, elements=elements, remaining=round(kept / elements, 6)))
    elements = sum(weights[name].numel() for name in names)
    kept = sum(int(weights[name].count_nonzero()) for name in names)
    others = [name for name in state if name not in set(names)]
    tally: dict[str, StoredTensors] = {}
    for how in sorted({state[name].how for name in others}):
        of = [state[name] for name in others if state[name].how == how]
        tally[_HOW[how]] = StoredTensors(tensors=len(of), bytes=sum(one.size_bytes for one in of))
    return Weights(
        asked=asked,
        elements=elements,
        remaining=kept / elements,
        remaining_compact=sum(state[name].parts[".values"].size for name in names) / elements,
        metric=metric,
        encoder_bytes=CompactSize(dense=4 * elements, compact=sum(state[name].size_bytes for name in names)),
        file_bytes=CompactSize(dense=files[0], compact=files[1]),
        forms=dict(Counter(f"{state[name].how}/{state[name].width}" for name in names)),
        others=tally,
        layers=tuple(layers),
    )
