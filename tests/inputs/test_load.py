"""The examples that a run draws from its data: to calibrate on, and further ones to distil on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.core.errors import ConfigError
from compress.core.progress import Silent
from compress.data.batches import Encoded
from compress.inputs.load import Loaded, load
from compress.options.effort import EFFORT
from compress.options.run_config import RunConfig, make_config
from support.data import write_rows
from support.models import MakeCheckpoint, random_model

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t"]
TEXTS = [f"{one} {two} film" for one in WORDS for two in WORDS]


def rows_of(data: Encoded) -> list[tuple[int, ...]]:
    return [tuple(row.tolist()) for row in data.features["input_ids"]]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": text, "label": ("negative", "positive")[i % 2]} for i, text in enumerate(TEXTS)]
    return write_rows(tmp_path_factory.mktemp("data") / "train.csv", rows)


def configured(model: Path, data: Path, **options: Any) -> RunConfig:
    given = {"samples": 50, "seq_len": 16, "macs": 0.5, "allow_chance": True, **options}
    return make_config({"model": str(model), "data": str(data), "eval_data": str(data), **given})


def loaded(model: Path, data: Path, **options: Any) -> Loaded:
    return load(configured(model, data, **options), Silent(), further=True)


def test_further_examples_are_others_of_the_same_rows(make_checkpoint: MakeCheckpoint, texts: Path) -> None:
    found = loaded(make_checkpoint("bert"), texts, distill_samples=120)
    first, further = rows_of(found.calibration), rows_of(found.further)
    assert len(first) == 50 and not set(first) & set(further)
    # A few texts are the same tokens as one of calibration.
    assert 110 < len(further) <= 120 and found.further.labels is None
    assert set(further) <= set(rows_of(found.evaluation))
    assert found.further.features.keys() == found.calibration.features.keys()


@pytest.mark.parametrize("seed", [0, 1])
def test_seeds_draw_them(make_checkpoint: MakeCheckpoint, texts: Path, seed: int) -> None:
    model = make_checkpoint("bert")
    of_seed, again = (loaded(model, texts, distill_samples=30, seed=seed).further for _ in range(2))
    assert of_seed.fingerprint() == again.fingerprint()
    assert of_seed.fingerprint() != loaded(model, texts, distill_samples=30, seed=2).further.fingerprint()


def test_all_that_there_are_where_there_are_fewer(make_checkpoint: MakeCheckpoint, texts: Path) -> None:
    found = loaded(make_checkpoint("bert"), texts)
    assert len(TEXTS) - 60 < len(found.further) <= len(TEXTS) - 50 < EFFORT["standard"].further
    assert len(loaded(make_checkpoint("bert"), texts, samples=10**6).further) == 0


def test_texts_that_calibration_has_are_not_taken_again(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    rows = [{"text": TEXTS[i % 60], "label": i % 2} for i in range(600)]
    found = loaded(make_checkpoint("bert"), write_rows(tmp_path / "train.csv", rows))
    assert found.further.without(found.calibration).fingerprint() == found.further.fingerprint()


def test_both_texts_of_a_pair_are_examples(tokenizer: Any, tmp_path: Path) -> None:
    model = random_model("bert").base_model
    model.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    rows = [{"sentence1": TEXTS[i], "sentence2": TEXTS[-1 - i], "score": i / 10} for i in range(100)]
    data = write_rows(tmp_path / "train.csv", rows)
    found = loaded(tmp_path / "encoder", data, task="sentence-similarity", samples=40, distill_samples=100)
    assert len(found.calibration) == 40 and 90 < len(found.further) <= 100 and found.further.targets is None


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"distill_samples": 0}, 0),
        ({"method": "kwon"}, 0),
        ({"effort": "fast"}, 0),
        ({"effort": "fast", "distill_samples": 7}, 7),
    ],
)
def test_nobody_draws_what_nothing_learns_from(
    make_checkpoint: MakeCheckpoint, texts: Path, options: dict[str, Any], count: int
) -> None:
    assert len(loaded(make_checkpoint("bert"), texts, **options).further) == count
    assert len(load(configured(make_checkpoint("bert"), texts), Silent()).further) == 0


def test_a_number_below_zero_is_refused(make_checkpoint: MakeCheckpoint, texts: Path) -> None:
    with pytest.raises(ConfigError, match="distill_samples must be greater"):
        configured(make_checkpoint("bert"), texts, distill_samples=-1)
