"""Task sentence-similarity: embeds texts so that the cosine of two embeddings measures their similarity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.data.batches import Encoded
from compress.data.columns import Columns, choose_columns, read_texts
from compress.data.labels import read_numbers
from compress.data.names import SCORE_NAMES
from compress.tasks.base import Chosen, Task, spearman
from compress.tasks.losses import check_finite, noise_like
from compress.tasks.measured import Measured
from compress.tasks.pooling import Layer, Normalize, pool, unit_length
from compress.tasks.standing import Standing, standing_of_ranks
from compress.tasks.tokenization import encode_texts

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor

Embedding = Literal["normalized", "pooled", "tokens"]


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
class EncoderNotes:
    """What the files of sentence-transformers say beyond pooling, so that the artifact can say it again.

    Attributes:
        complete: whether the task computes everything that the files ask for; if not, none are written.
        described: text of config_sentence_transformers.json: prompts, similarity and so on.
        prompt_name: name of the prompt in use; None without one.
        include_prompt: whether the tokens of a prompt are pooled.
        lower_case: whether texts are put into lower case.
        max_seq_length: tokens that a text is cut to; None takes the tokenizer's.
    """

    complete: bool = True
    described: str = "{}"
    prompt_name: str | None = None
    include_prompt: bool = True
    lower_case: bool = False
    max_seq_length: int | None = None


@dataclass(frozen=True)
class SentenceSimilarity(Task):
    """One embedding per text: its tokens' last hidden states, pooled, and layers after that.

    There are no labels to calibrate on: the dense model's own embeddings are the reference. An embedding is taken as
    the mean of a normal distribution of unit variance. Labels drawn from it give the Gauss-Newton matrix of the
    squared error, in one random direction per example.

    Attributes:
        pooling: a name of ``POOLINGS``; several are joined by ``+``, and so are their embeddings.
        normalize: whether embeddings have length 1.
        embedding: output of the exported file: ``normalized`` or ``pooled`` embeddings [batch, dimension], or
            ``tokens``, the last hidden state [batch, sequence, hidden], which the user pools.
        layers: layers between pooling and the normalisation, in order.
        truncate: entries at the start of an embedding that are kept, after everything else; None keeps all.
        prompt: text before every text.
        prompt_tokens: tokens at the start of a row that are not pooled: those of the prompt, where it is left out.
        similarity: what the metric compares two embeddings by: a name of ``SIMILARITIES``.
        notes: what the artifact says again.
    """

    pooling: str = "mean"
    normalize: bool = True
    embedding: Embedding = "normalized"
    layers: tuple[Layer, ...] = ()
    truncate: int | None = None
    prompt: str = ""
    prompt_tokens: int = 0
    similarity: str = "cosine"
    notes: EncoderNotes = field(default=EncoderNotes(), compare=False)

    name = "sentence-similarity"
    metric_name = "spearman"
    auto_class_name = "AutoModel"
    head_suffixes = ("Model",)
    unread_weights = ("pooler.",)
    # Lone texts to calibrate on, pairs to evaluate on; scores only serve the metric.
    one_choice = False

    def check_config(self, config: Any) -> None:
        """Accepts every configuration: any encoder without a head gives embeddings."""

    def giving(self, embedding: str) -> SentenceSimilarity:
        # Cut off and then normalised is not normalised and then cut off: the task computes what the file gives.
        cut = self.truncate is not None and embedding == "pooled"
        normalize = embedding == "normalized" or (self.normalize and not cut)
        return replace(self, embedding=cast("Embedding", embedding), normalize=normalize)

    def settings(self) -> dict[str, Any]:
        return {
            **super().settings(),
            "pooling": self.pooling,
            "embedding": self.embedding,
            "normalize": self.normalize,
            "layers": [layer.describe() for layer in self.layers],
            "truncate": self.truncate,
            "prompt": self.prompt,
            "prompt_tokens": self.prompt_tokens,
            **({} if self.similarity == "cosine" else {"similarity": self.similarity}),
        }

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
        if self.prompt:
            check_prompt(self.prompt, tokenizer, seq_len)
        encoded = encode_texts([[self.prompt + text for text in position]], tokenizer, seq_len, config)
        if len(places) == 1:
            return encoded
        scores = None if columns.label is None else read_numbers(dataset, columns.label)
        first, second = (np.array(column, dtype=np.int64) for column in places)
        return replace(encoded, targets=Pairs(first, second, scores))

    def made_up(self, config: Any, names: tuple[str, ...], length: int, count: int) -> Encoded:
        # A row of prompt alone has nothing to pool.
        return super().made_up(config, names, max(length, self.prompt_tokens + 2), count)

    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        return self.embedded(_hidden(model, inputs), inputs["attention_mask"])

    def embedded(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Makes embeddings of the last hidden state.

        Args:
            hidden: [batch, sequence, hidden].
            mask: attention mask, [batch, sequence].

        Returns:
            [batch, dimension].
        """
        return self._embedded(hidden, mask, self.normalize)

    def width(self, hidden_size: int) -> int:
        """Returns the size of an embedding.

        Args:
            hidden_size: of the encoder.
        """
        size = hidden_size * len(self.pooling.split("+"))
        size = next((len(layer.weight) for layer in reversed(self.layers) if not isinstance(layer, Normalize)), size)
        return size if self.truncate is None else min(size, self.truncate)

    def _embedded(self, hidden: Tensor, mask: Tensor, normalize: bool) -> Tensor:
        """Pools, applies the layers, and normalises if asked to, [batch, dimension]."""
        embeddings = pool(hidden, mask, self.pooling.split("+"), self.prompt_tokens)
        for layer in self.layers:
            embeddings = layer(embeddings)
        if normalize:
            embeddings = unit_length(embeddings)
        return embeddings if self.truncate is None else embeddings[:, : self.truncate]

    @property
    def file_names(self) -> tuple[str, ...]:
        return ("last_hidden_state",) if self.embedding == "tokens" else ("sentence_embedding", "last_hidden_state")

    def file_outputs(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        hidden = _hidden(model, inputs)
        if self.embedding == "tokens":
            return (hidden,)
        return self._embedded(hidden, inputs["attention_mask"], self.embedding == "normalized"), hidden

    def read_file(self, answer: NDArray[Any], inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        import torch

        embeddings = torch.from_numpy(answer)
        if self.embedding == "tokens":
            mask = torch.from_numpy(inputs["attention_mask"])
            return self._embedded(embeddings, mask, self.normalize).numpy()
        return unit_length(embeddings).numpy() if self.normalize and self.embedding == "pooled" else answer

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
        """Computes Spearman's correlation of similarity and scores; without scores, the mean cosine with ``reference``.

        Args:
            logits: embeddings of all examples.
            data: the examples; ``targets`` has the pairs.
            reference: the dense model's embeddings; needed only without scores.
        """
        pairs: Pairs | None = data.targets
        if pairs is not None and pairs.scores is not None:
            alike = SIMILARITIES[self.similarity](logits[pairs.first], logits[pairs.second])
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


def _dots(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    return cast("NDArray[np.float64]", (np.asarray(first, np.float64) * np.asarray(second, np.float64)).sum(-1))


def _nearness(order: int) -> Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]:
    def negative_distance(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
        apart = np.asarray(first, np.float64) - np.asarray(second, np.float64)
        return cast("NDArray[np.float64]", -np.linalg.norm(apart, ord=order, axis=-1))

    return negative_distance


# By the names of sentence-transformers (``similarity_fn_name``); larger is more similar.
SIMILARITIES: dict[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]] = {
    "cosine": cosines,
    "dot": _dots,
    "euclidean": _nearness(2),
    "manhattan": _nearness(1),
}


def _hidden(model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return cast("Tensor", model(**inputs).last_hidden_state)


def check_prompt(prompt: str, tokenizer: Any, seq_len: int) -> None:
    """Checks that a prompt leaves room for at least one token of text.

    Args:
        prompt: text before every text.
        tokenizer: the checkpoint's tokenizer.
        seq_len: tokens per row, special tokens included.

    Raises:
        DataError: it does not.
    """
    taken = len(tokenizer(prompt)["input_ids"])
    if taken >= seq_len:
        raise DataError(
            f"the prompt {prompt!r} takes {taken} of {seq_len} tokens and leaves no room for a text: --seq-len must be "
            f"at least {taken + 1}, or give --prompt none"
        )
