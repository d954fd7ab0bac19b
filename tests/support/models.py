"""Small random models of every family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Small, uneven and with a head size unlike the number of heads, so that mixed-up sizes show.
_SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 20,
}
_BEHIND_PADDING = {"pad_token_id": 0, "max_position_embeddings": 41, "type_vocab_size": 1}
TINY_SIZES: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "distilbert": {"dim": 24, "n_layers": 3, "n_heads": 4, "hidden_dim": 20},
    # Positions of these start behind that of the padding token.
    **{name: {**_SIZES, **_BEHIND_PADDING} for name in ("roberta", "xlm-roberta", "camembert")},
    # This one takes 1 for the padding token whatever the configuration says.
    "mpnet": {**_SIZES, "pad_token_id": 1, "max_position_embeddings": 42},
    "electra": {**_SIZES, "embedding_size": 16},
    "deberta-v2": {
        **_SIZES,
        "relative_attention": True,
        "position_buckets": 4,
        "pos_att_type": ["c2p", "p2c"],
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    # A window that texts are longer than, in the middle layer.
    "modernbert": {
        **_SIZES,
        "local_attention": 4,
        "global_attn_every_n_layers": 2,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
    },
}
# Two by two patches.
_IMAGES = {"image_size": 16, "patch_size": 8}
TINY_SIZES |= {
    "vit": {**_SIZES, **_IMAGES},
    # transformers has two classes for it.
    "deit": {**_SIZES, **_IMAGES, "architectures": ["DeiTForImageClassification"]},
}
OF_IMAGES = ("deit", "vit")
# Written like BERT, module by module: what takes long is tried on them in the slow tests.
ALIKE = ("camembert", "deit", "electra", "roberta", "xlm-roberta")
# Those that read texts.
EVERY_FAMILY = [
    pytest.param(family, marks=pytest.mark.slow) if family in ALIKE else family
    for family in sorted(set(TINY_SIZES) - set(OF_IMAGES))
]
# Names of the number of layers, where a family has one of its own.
_LAYERS = {"distilbert": "n_layers"}
MakeCheckpoint = Callable[..., Path]
DenseOnnx = Callable[[str], Path]


def random_model(family: str, vocabulary: int = 200, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A small classifier with random weights *and* random biases and norms: fresh models have zeros there."""
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

    names = {0: "negative", 1: "positive"}
    texts = {} if family in OF_IMAGES else {"vocab_size": vocabulary, "max_position_embeddings": 40}
    options = {
        **texts,
        **TINY_SIZES[family],
        "id2label": names,
        "label2id": {name: number for number, name in names.items()},
        **config,
    }
    kind = AutoModelForImageClassification if family in OF_IMAGES else AutoModelForSequenceClassification
    model = kind.from_config(AutoConfig.for_model(family, **options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm_scale = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1 + 0.1 * noise if norm_scale else 0.2 * noise)
    return model.eval()


def layers(family: str, number: int) -> dict[str, int]:
    """The option of ``random_model`` for so many layers."""
    return {_LAYERS.get(family, "num_hidden_layers"): number}


def write_image_processor(directory: Path, size: int) -> None:
    """The file of an image processor: its class has other names where torchvision is not installed."""
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size}}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
