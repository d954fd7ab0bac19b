"""What a sparse model comes to, for files, the terminal and the report: plain values, no tensors where it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from compress._version import __version__

if TYPE_CHECKING:
    from compress.architectures import Encoder
    from compress.sparsity.compact import Stored

KEY = "unstructured"
BYTES_NOT_TIME = (
    "This saves bytes, not time: ONNX Runtime, PyTorch and TensorRT compute a zero like any other number, so latency "
    "stays that of the dense model unless a runtime exploits zeros."
)
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
    metric: Mapping[str, Any],
    files: tuple[int, int],
) -> dict[str, Any]:
    """What validation.json says of single weights.

    Args:
        encoder: the dense model.
        model: with the masks multiplied in.
        state: how every tensor is stored in the compact file.
        asked: fraction that was to stay.
        metric: ``name``, ``dense``, ``masked``, ``compact``.
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
        layers.append({"layer": layer.number, "elements": elements, "remaining": round(kept / elements, 6)})
    elements = sum(weights[name].numel() for name in names)
    kept = sum(int(weights[name].count_nonzero()) for name in names)
    others = [name for name in state if name not in set(names)]
    tally: dict[str, dict[str, int]] = {}
    for how in sorted({state[name].how for name in others}):
        of = [state[name] for name in others if state[name].how == how]
        tally[_HOW[how]] = {"tensors": len(of), "bytes": sum(one.size_bytes for one in of)}
    return {
        "asked": asked,
        "elements": elements,
        "remaining": kept / elements,
        "remaining_compact": sum(state[name].parts[".values"].size for name in names) / elements,
        "metric": dict(metric),
        "encoder_bytes": {"dense": 4 * elements, "compact": sum(state[name].size_bytes for name in names)},
        "file_bytes": {"dense": files[0], "compact": files[1]},
        "forms": dict(Counter(f"{state[name].how}/{state[name].width}" for name in names)),
        "others": tally,
        "layers": layers,
    }


def percent(value: float) -> str:
    """A share, with digits enough for small ones."""
    return f"{100 * value:.2f} %"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f}"


def said(weights: Mapping[str, Any]) -> str:
    """In a sentence."""
    return (
        f"{percent(weights['remaining'])} of the weights of the encoder's linear layers remain, "
        f"{percent(weights['asked'])} asked; saves bytes, not time"
    )


def rows(weights: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Name, dense, masked checkpoint, compact file."""
    metric, encoder, file = weights["metric"], weights["encoder_bytes"], weights["file_bytes"]
    yield str(metric["name"]), f"{metric['dense']:.4f}", f"{metric['masked']:.4f}", f"{metric['compact']:.4f}"
    yield (
        "weights of the encoder's linear layers",
        percent(1.0),
        percent(weights["remaining"]),
        percent(weights["remaining_compact"]),
    )
    yield (
        "these weights, MB",
        _megabytes(encoder["dense"]),
        _megabytes(encoder["dense"]),
        _megabytes(encoder["compact"]),
    )
    yield "the whole file, MB", _megabytes(file["dense"]), _megabytes(file["dense"]), _megabytes(file["compact"])


COLUMNS = ("", "dense fp32", "masked fp32", "compact file")


def stored_lines(weights: Mapping[str, Any]) -> list[str]:
    """How what is no encoder matrix is stored, a line each."""
    return [
        f"{of['tensors']} other tensors {how}: {_megabytes(of['bytes'])} MB" for how, of in weights["others"].items()
    ]


def card(name: str, validation: Mapping[str, Any]) -> str:
    """The artifact's README.md."""
    weights, device = validation[KEY], validation["deployment"]["device"]
    trained = validation["deployment"]["seq_len"]
    lines = [
        f"# {name}, sparse",
        "",
        f"Made by compress {__version__} from `{name}`: {percent(weights['asked'])} of the weights of the encoder's "
        "linear layers stay, the others are zero.",
        "",
        f"**{BYTES_NOT_TIME}**",
        "",
        "| | dense fp32 | masked fp32 | compact file |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows(weights)),
        "",
        f"Measured in PyTorch on {device['processor']}, {validation['metric']['examples']} examples of at most "
        f"{trained} tokens, {validation['date'][:10]}. Verdict: **{validation['verdict']}** ({validation['reason']}).",
        "",
        "In the compact file the encoder's matrices are int8 with one scale per row, their zeros left out; "
        + "; ".join(stored_lines(weights))
        + ".",
        "",
        "```python",
        "import compress",
        'small = compress.load_compact("compact.safetensors")  # as the compact file has it, in float32',
        "",
        "from transformers import AutoModel",
        'AutoModel.from_pretrained("pytorch")  # or the class of your task: an ordinary checkpoint, zeros in it',
        "```",
        "",
        "| layer | remaining |",
        "|---|---|",
        *(f"| {layer['layer']} | {percent(layer['remaining'])} |" for layer in weights["layers"]),
    ]
    return "\n".join(lines) + "\n"


def is_sparse(validation: Any) -> bool:
    """Whether a validation.json is of a run with ``--unstructured``."""
    return isinstance(validation, Mapping) and isinstance(validation.get(KEY), Mapping)


def artifact_is_sparse(manifest: Mapping[str, Any]) -> bool:
    """Whether an artifact, by its manifest, is of a run with ``--unstructured``."""
    configuration = manifest.get("configuration")
    return isinstance(configuration, Mapping) and configuration.get(KEY) is not None
