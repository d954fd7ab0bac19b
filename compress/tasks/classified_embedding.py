"""Text classification by a linear head on embeddings, as SetFit trains it: the head is part of the exported file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compress.data.batches import Encoded
from compress.data.columns import Columns, read_texts
from compress.tasks.pooling import Dense
from compress.tasks.sentence_similarity import SentenceSimilarity, check_prompt
from compress.tasks.text_classification import TextClassification, read_label_ids
from compress.tasks.tokenization import encode_texts

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class ClassifiedEmbedding(TextClassification):
    """One of several classes for a text, from its embedding.

    Source: Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts", section 3.

    Attributes:
        encoder: makes the embedding, in the form that the head was trained on.
        head: from an embedding to logits, [classes, dimension], without an activation function.
    """

    encoder: SentenceSimilarity
    head: Dense

    auto_class_name = "AutoModel"
    head_suffixes: ClassVar[tuple[str, ...]] = ("Model",)
    unread_weights: ClassVar[tuple[str, ...]] = ("pooler.",)

    @property
    def file_names(self) -> tuple[str, ...]:
        return "logits", "last_hidden_state"

    def settings(self) -> dict[str, Any]:
        return {**self.encoder.settings(), **super().settings(), "head": self.head.describe()}

    def encode(self, dataset: Any, tokenizer: Any, columns: Columns, seq_len: int, config: Any) -> Encoded:
        if not self.encoder.prompt:
            return super().encode(dataset, tokenizer, columns, seq_len, config)
        check_prompt(self.encoder.prompt, tokenizer, seq_len)
        labels = read_label_ids(dataset, columns.label, columns.label_ids) if columns.label is not None else None
        texts = [[self.encoder.prompt + text for text in read_texts(dataset, columns.text[0])]]
        texts += [list(read_texts(dataset, name)) for name in columns.text[1:]]
        return encode_texts(texts, tokenizer, seq_len, config, labels)

    def made_up(self, config: Any, names: tuple[str, ...], length: int, count: int) -> Encoded:
        return self.encoder.made_up(config, names, length, count)

    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(self.encoder.forward(model, inputs))

    def file_outputs(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        hidden = model(**inputs).last_hidden_state
        return self.head(self.encoder.embedded(hidden, inputs["attention_mask"])), hidden
