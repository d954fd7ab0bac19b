"""Activations of a float32 graph on calibration data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, save_model

from compress.core.cores import usable_cores
from compress.export import graph
from compress.export.int8 import Feed
from compress.export.session import load_inference

_MASK = "attention_mask"


@dataclass
class Seen:
    """Values of a tensor on calibration data.

    Attributes:
        low, high: least and largest value of each channel, 0 included.
        largest: largest value of each token.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    largest: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, values: NDArray[np.float32]) -> None:
        """Take account of values, [tokens, channels]."""
        self.low = np.minimum(self.low, values.min(axis=0))
        self.high = np.maximum(self.high, values.max(axis=0))
        self.largest.append(values.max(axis=1))


def ranges_of(model: ModelProto, names: Sequence[str], samples: Iterable[Feed]) -> dict[str, Seen]:
    """Returns what a float32 graph computes for some of its tensors.

    Args:
        model: the graph; not changed.
        names: of the tensors, [batch, tokens, channels].
        samples: batches, arrays by input name.
    """
    found: dict[str, Seen] = {}
    for name, tokens in activations(model, names, samples):
        zeros = np.zeros(tokens.shape[1])
        found.setdefault(name, Seen(zeros, zeros)).add(tokens)
    return found


def activations(
    model: ModelProto, names: Sequence[str], samples: Iterable[Feed]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yields some tensors of a float32 graph for each sample, [tokens, channels]; padding does not count.

    Args:
        model: the graph; not changed.
        names: of the tensors, [batch, tokens, channels].
        samples: batches, arrays by input name.
    """
    import onnxruntime

    watched = graph.copy_of(model)
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        path = Path(folder) / "watched.onnx"
        external = sum(map(graph.size_of, watched.graph.initializer)) > graph.EXTERNAL_DATA_ABOVE_BYTES
        save_model(watched, str(path), save_as_external_data=external, location="data" if external else None)
        session = load_inference(path, options, ["CPUExecutionProvider"])
        inputs = [value.name for value in session.get_inputs()]
        for sample in samples:
            answers = session.run(list(names), {name: sample[name] for name in inputs})
            for name, values in zip(names, answers, strict=True):
                tokens = values.reshape(-1, values.shape[-1])
                mask = sample.get(_MASK)
                # What does not have a row per token, such as embeddings of distances, counts as it is.
                if mask is not None and mask.size == len(tokens):
                    tokens = tokens[mask.reshape(-1).astype(bool)]
                yield name, tokens
