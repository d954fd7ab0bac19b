"""Task sentence-similarity: embeds texts so that the cosine of two embeddings measures their similarity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ModelError
from compress.data.batches import Encoded
from compress.data.columns import Columns, choose_columns, read_texts
from compress.data.labels import read_numbers
from compress.data.names import SCORE_NAMES
from compress.tasks.base import Chosen, Measured, Task, check_finite, noise_like, spearman
from compress.tasks.standing import Standing, standing_of_ranks
from compress.tasks.tokenization import encode_texts

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor

Pooling = Literal["mean", "cls"]
Embedding = Literal["normalized", "pooled", "tokens"]
_POOLING_CONFIG = "config.json"


@dataclass(frozen=True)
class Pairs:
    """Pairs of examples, with the similarity that people gave them.

    Attributes:
        first: position of each pair's first example, int64 [pairs].
        second: position of each pair's second example, int64 [pairs].
        scores: similarity, [pairs]; None without labels.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    scores: NDArray[np.float64] | None


@dataclass(frozen=True)
class SentenceSimilarity(Task):
    """One embedding per text: the mean of its tokens' last hidden states, or that of the first token.

    There are no labels to calibrate on: the dense model's own embeddings are the reference. An embedding is taken as
    the mean of a normal distribution of unit variance. Labels drawn from it give the Gauss-Newton matrix of the
    squared error, in one random direction per example.

    Attributes:
        pooling: mean over the tokens of the text, or the first token.
        normalize: whether embeddings have length 1.
        embedding: output of the exported file: ``normalized`` or ``pooled`` embeddings [batch, hidden], or
            ``tokens``, the last hidden state [batch, sequence, hidden], which the user pools.
    """

    pooling: Pooling = "mean"
    normalize: bool = True
    embedding: Embedding = "normalized"

    name = "sentence-similarity"
    metric_name = "spearman"
    auto_class_name = "AutoModel"
    head_suffixes = ("Model",)
    unread_weights = ("pooler.",)
    # Lone texts to calibrate on, pairs to evaluate on; scores only serve the metric.
    one_choice = False

    def check_config(self, config: Any) -> None:
        """Accepts every configuration: any encoder without a head gives embeddings."""

    def of_checkpoint(self, directory: Path) -> SentenceSimilarity:
        """Returns the task with pooling and normalisation from the checkpoint's sentence-transformers files.

        Without such files the defaults stay: mean pooling, normalised.

        Raises:
            ModelError: the files cannot be read, or ask for a pooling that is not supported.
        """
        modules = directory / "modules.json"
        if not modules.is_file():
            return self
        try:
            kinds = {str(m["type"]).rsplit(".", 1)[-1]: str(m["path"]) for m in json.loads(modules.read_text("utf-8"))}
            pooling = self.pooling
            if "Pooling" in kinds:
                # A name with several folders in it could lead anywhere.
                notes = directory / Path(kinds["Pooling"]).name / _POOLING_CONFIG
                pooling = _pooling_of(json.loads(notes.read_text("utf-8")), notes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"'{modules}' does not say how embeddings are made: {error!r}") from None
        others = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
        if others:
            raise ModelError(
                f"'{modules}' has {', '.join(others)} after pooling, which is not supported; remove it from the file "
                "to compress the encoder alone"
            )
        normalize = "Normalize" in kinds
        return replace(self, pooling=pooling, normalize=normalize, embedding="normalized" if normalize else "pooled")

    def giving(self, embedding: str) -> SentenceSimilarity:
        return replace(self, embedding=cast("Embedding", embedding))

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "pooling": self.pooling, "embedding": self.embedding}

    def find_columns(
        self, dataset: Dataset, text_column: str | None = None, label_column: str | None = None
    ) -> Columns:
        return choose_columns(dataset, text_column, label_column, SCORE_NAMES)

    def settle_labels(self, splits: Mapping[str, Dataset], columns: Mapping[str, Columns], config: Any) -> Chosen:
        chosen = dict(columns)
        for name, own in columns.items():
            of_split = f" of the {name}" if name else ""
            if own.label is None:
                continue
            if len(own.text) == 1:
                note = f"column '{own.label}'{of_split} is not used: scores are for pairs of texts"
            elif read_numbers(splits[name], own.label) is None:
                note = f"column '{own.label}'{of_split} has no numbers"
            else:
                continue
            chosen[name] = replace(own, label=None, guesses=(*own.guesses, note))
        return Chosen(chosen)

    def encode(self, dataset: Dataset, tokenizer: Any, columns: Columns, seq_len: int, config: Any) -> Encoded:
        """Makes one example of every distinct text; pairs refer to examples by position."""
        texts = [read_texts(dataset, name) for name in columns.text]
        position: dict[str, int] = {}
        places = [[position.setdefault(text, len(position)) for text in column] for column in texts]
        encoded = encode_texts([list(position)], tokenizer, seq_len, config)
        if len(places) == 1:
            return encoded
        scores = None if columns.label is None else read_numbers(dataset, columns.label)
        first, second = (np.array(column, dtype=np.int64) for column in places)
        return replace(encoded, targets=Pairs(first, second, scores))

    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        embeddings = self._pooled(_hidden(model, inputs), inputs)
        return _unit_length(embeddings) if self.normalize else embeddings

    def _pooled(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp_min(1e-9)

    @property
    def file_names(self) -> tuple[str, ...]:
        return ("last_hidden_state" if self.embedding == "tokens" else "sentence_embedding",)

    def file_outputs(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        hidden = _hidden(model, inputs)
        if self.embedding == "tokens":
            return (hidden,)
        pooled = self._pooled(hidden, inputs)
        return (_unit_length(pooled) if self.embedding == "normalized" else pooled,)

    def read_file(self, answer: NDArray[Any], inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        import torch

        embeddings = torch.from_numpy(answer)
        if self.embedding == "tokens":
            mask = torch.from_numpy(inputs["attention_mask"])
            embeddings = self._pooled(embeddings, {"attention_mask": mask})
        answer = (_unit_length(embeddings) if self.normalize else embeddings).numpy()
        return answer

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * (logits - labels).square().sum(-1)

    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Returns half the squared distance over the squared length of the reference; 1 - cosine for unit vectors."""
        return self.loss(logits, reference) / reference.square().sum(-1).clamp_min(1e-12)

    def draw_labels(self, reference: Tensor, generator: torch.Generator | None = None) -> Tensor:
        check_finite(reference)
        return reference + noise_like(reference, generator)

    def predictions(self, logits: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(logits)

    def scores(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the cosine of each embedding with its reference, [n]."""
        return cosines(logits, labels)

    def evaluate(self, logits: NDArray[Any], data: Encoded, reference: NDArray[Any] | None = None) -> Measured:
        """Computes Spearman's correlation of cosines and scores; without scores, the mean cosine with the reference."""
        pairs: Pairs | None = data.targets
        if pairs is not None and pairs.scores is not None:
            alike = cosines(logits[pairs.first], logits[pairs.second])
            return Measured(self.metric_name, np.stack([alike, pairs.scores], axis=1), spearman)
        if reference is None:
            raise ValueError("without scores the dense model's embeddings are needed")
        return Measured("cosine fidelity", cosines(logits, reference))

    def standing(self, logits: NDArray[Any], data: Encoded) -> Standing | None:
        pairs: Pairs | None = data.targets
        if pairs is None or pairs.scores is None:
            return None
        return standing_of_ranks(self.evaluate(logits, data).scores)


def cosines(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the cosine of the angle between corresponding rows of two matrices, [n].

    Args:
        first: [n, hidden].
        second: [n, hidden].
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return cast("NDArray[np.float64]", (a * b).sum(-1) / np.maximum(lengths, 1e-12))


def _pooling_of(notes: Mapping[str, Any], file: Path) -> Pooling:
    modes = {key.removeprefix("pooling_mode_"): value for key, value in notes.items() if key.startswith("pooling_mode")}
    chosen = sorted(name for name, value in modes.items() if value is True)
    known: dict[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls"}
    # Newer files name the one mode instead: "pooling_mode": "mean".
    named = modes.get("pooling_mode")
    if isinstance(named, str):
        chosen = [{"mean": "mean_tokens", "cls": "cls_token"}.get(named, named)]
    if len(chosen) != 1 or chosen[0] not in known:
        raise ModelError(f"'{file}' asks for pooling {', '.join(chosen) or 'of no kind'}; supported are mean and cls")
    return known[chosen[0]]


def _hidden(model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return cast("Tensor", model(**inputs).last_hidden_state)


def _unit_length(embeddings: Tensor) -> Tensor:
    from torch.nn.functional import normalize

    return normalize(embeddings, dim=-1)
