"""Compresses an encoder of your own class: gives the paths of its modules and registers them.

    python examples/own_family.py DIRECTORY

The example makes a small model with random weights, saves it in DIRECTORY, compresses it to half of its
multiply-accumulates and loads the result.
"""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
)

import compress
from compress.models.families import Architecture, register


class OwnConfig(BertConfig):
    model_type = "own-encoder"


class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig


# transformers must know the classes to load checkpoints by name.
AutoConfig.register("own-encoder", OwnConfig)
AutoModelForSequenceClassification.register(OwnConfig, OwnForSequenceClassification)

# compress must know where heads and filters are in a layer.
register(
    Architecture(
        model_type="own-encoder",
        layers="encoder.layer",
        attention="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        ffn_input="intermediate.dense",
        ffn_output="output.dense",
        attention_sum="attention.output.LayerNorm",
        ffn_sum="output.LayerNorm",
    )
)


def main(directory: Path) -> None:
    sentences = ["a warm and funny film", "dull , slow and far too long", "great food", "a rude waiter"] * 10
    words = sorted({word for sentence in sentences for word in sentence.split()})
    directory.mkdir(parents=True)
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    tokenizer = BertTokenizerFast.from_pretrained(directory)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = OwnForSequenceClassification(OwnConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes))
    model.save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")
    (directory / "texts.csv").write_text("text\n" + "".join(f'"{sentence}"\n' for sentence in sentences))

    result = compress.run(
        directory / "model",
        data=str(directory / "texts.csv"),
        macs=0.5,
        seq_len=16,
        effort="fast",
        output=str(directory / "out"),
    )
    smaller = compress.load(directory / "out")
    print(
        f"{type(smaller).__name__}: {result.plan.macs_fraction:.2f} of the multiply-accumulates kept, {result.verdict}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
