r"""Writes handwritten digits as a folder of images, and a small untrained ViT to train on them; offline, in seconds.

    python examples/digits.py DIRECTORY
    python examples/finetune.py --task image-classification --data DIRECTORY/images --model DIRECTORY/untrained \
        --epochs 40 --learning-rate 1e-3 --output DIRECTORY/vit
    compress run DIRECTORY/vit --data DIRECTORY/images --speedup 1.5 --target cpu --output DIRECTORY/out

The images are the 1,797 of the UCI data set "Optical Recognition of Handwritten Digits" (8 x 8, 16 shades) that come
with scikit-learn; a fifth of them is for validation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import ViTConfig, ViTModel, set_seed

# Each of the 8 x 8 pixels becomes a square of this edge length, so that patches have something in them.
ENLARGED = 4
SIZE = 8 * ENLARGED


def write_images(directory: Path) -> None:
    """Writes ``train`` and ``validation``, each with one folder per digit."""
    digits = load_digits()
    numbers = np.arange(len(digits.images))
    parts = train_test_split(numbers, test_size=0.2, random_state=0, stratify=digits.target)
    for split, chosen in zip(("train", "validation"), parts, strict=True):
        for number in chosen:
            folder = directory / split / str(digits.target[number])
            folder.mkdir(parents=True, exist_ok=True)
            shades = np.rint(digits.images[number] * (255 / 16)).astype(np.uint8)
            large = np.kron(shades, np.ones((ENLARGED, ENLARGED), dtype=np.uint8))
            Image.fromarray(large).save(folder / f"{number}.png")


def write_model(directory: Path) -> None:
    """Writes a ViT of 0.3 million random weights with its image processor."""
    set_seed(0)
    config = ViTConfig(
        image_size=SIZE,
        patch_size=8,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=192,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(directory)
    # Written as a file: the name of the processor's class depends on whether torchvision is installed.
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": SIZE, "width": SIZE}}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")


def main() -> None:
    directory = Path(sys.argv[1])
    write_images(directory / "images")
    write_model(directory / "untrained")
    print(f"images: {directory / 'images'}; untrained model: {directory / 'untrained'}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main()
