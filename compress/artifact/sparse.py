"""What an artifact of `--unstructured` says of itself: table, card, sentences. No tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from compress._version import __version__

if TYPE_CHECKING:
    from compress.artifact.validation import Validation, Weights


KEY = "unstructured"


BYTES_NOT_TIME = (
    "This saves bytes, not time: ONNX Runtime, PyTorch and TensorRT compute a zero like any other number, so latency "
    "stays that of the dense model unless a runtime exploits zeros."
)


def percent(value: float) -> str:
    """A share, with digits enough for small ones."""
    return f"{100 * value:.2f} %"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f}"


def said(weights: Weights) -> str:
    """What remains, and what was asked, in a sentence."""
    return (
        f"{percent(weights.remaining)} of the weights of the encoder's linear layers remain, "
        f"{percent(weights.asked)} asked; saves bytes, not time"
    )


def rows(weights: Weights) -> Iterator[tuple[str, str, str, str]]:
    """Name, dense, masked checkpoint, compact file."""
    metric, encoder, file = weights.metric, weights.encoder_bytes, weights.file_bytes
    yield metric.name, f"{metric.dense:.4f}", f"{metric.masked:.4f}", f"{metric.compact:.4f}"
    yield (
        "weights of the encoder's linear layers",
        percent(1.0),
        percent(weights.remaining),
        percent(weights.remaining_compact),
    )
    for name, size in (("these weights, MB", encoder), ("the whole file, MB", file)):
        yield name, _megabytes(size.dense), _megabytes(size.dense), _megabytes(size.compact)


COLUMNS = ("", "dense fp32", "masked fp32", "compact file")


def stored_lines(weights: Weights) -> list[str]:
    """How tensors outside the encoder's matrices are stored, a line each."""
    return [f"{of.tensors} other tensors {how}: {_megabytes(of.bytes)} MB" for how, of in weights.others.items()]


def card(name: str, validation: Validation) -> str:
    """The artifact's README.md.

    Args:
        name: of the dense model.
        validation: with ``unstructured``.
    """
    weights, deployment = validation.unstructured, validation.deployment
    assert weights is not None
    lines = [
        f"# {name}, sparse",
        "",
        f"Made by compress {__version__} from `{name}`: {percent(weights.asked)} of the weights of the encoder's "
        "linear layers stay, the others are zero.",
        "",
        f"**{BYTES_NOT_TIME}**",
        "",
        "| | dense fp32 | masked fp32 | compact file |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows(weights)),
        "",
        f"Measured in PyTorch on {deployment.device['processor']}, {validation.metric.examples} examples of at most "
        f"{deployment.seq_len} tokens, {validation.date[:10]}. Verdict: **{validation.verdict}** "
        f"({validation.reason}).",
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
        *(f"| {layer.layer} | {percent(layer.remaining)} |" for layer in weights.layers),
    ]
    return "\n".join(lines) + "\n"


def artifact_is_sparse(manifest: Mapping[str, Any]) -> bool:
    """Whether an artifact, by its manifest, is of a run with ``--unstructured``."""
    configuration = manifest.get("configuration")
    return isinstance(configuration, Mapping) and configuration.get(KEY) is not None
