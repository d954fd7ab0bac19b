"""Loads everything a run reads: checkpoint, target, calibration and evaluation examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from compress.core.errors import ConfigError, DataError
from compress.core.plan import EncoderShape
from compress.core.trace import span
from compress.data.batches import Encoded
from compress.data.columns import Columns
from compress.data.load import is_one_part, load_data, sample_rows
from compress.data.origin import notes_of, select_rows
from compress.data.splits import CALIBRATION, EVALUATION, label_difference
from compress.inputs.checkpoint import Checkpoint, load_checkpoint
from compress.inputs.compute import Compute, Need
from compress.inputs.devices import refuse_absent
from compress.inputs.precisions import candidates
from compress.inputs.sanity import MOST_ROWS, check_standing
from compress.inputs.tokenizer_settings import longest_text
from compress.options.effort import EFFORT
from compress.options.help import DEFAULTS
from compress.options.run_config import RunConfig
from compress.profile.target import Target, load_target

if TYPE_CHECKING:
    from datasets import Dataset

    from compress.core.progress import Progress

# Fraction of the rows of a single file that is held back for validation, and the number of rows at most.
_HELD_BACK = 0.2
_HELD_BACK_ROWS = 2000


@dataclass(frozen=True)
class Loaded:
    """The inputs of a run.

    Attributes:
        checkpoint: dense model, tokenizer, task.
        target: the device.
        calibration: examples to calibrate on; empty without data.
        evaluation: examples to validate on; empty if none are needed.
        further: more examples of the same rows as ``calibration``, without labels, to distil the dense model on; empty
            if none are needed, or there are no more.
        columns: columns and meaning of labels of each split, decided once; empty without data.
        rows: all rows that calibration examples were drawn from; None where nothing is trained.
        compute: where PyTorch computes.
    """

    checkpoint: Checkpoint
    target: Target
    calibration: Encoded
    evaluation: Encoded
    further: Encoded
    columns: Mapping[str, Columns] = field(default_factory=dict)
    rows: Dataset | None = None
    compute: Compute = field(default_factory=Compute)

    @property
    def shape(self) -> EncoderShape:
        """Sizes of the dense encoder."""
        return self.checkpoint.encoder.shape

    @property
    def length(self) -> float:
        """Positions at which MACs are counted: mean tokens of a calibration example, 128 without data, or patches."""
        return self.calibration.mean_length or float(self.calibration.positions or 128)

    @property
    def output_names(self) -> dict[int, str]:
        """Names of the model's classes or tags, by number."""
        return {int(number): str(name) for number, name in (self.checkpoint.model.config.id2label or {}).items()}

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the exported model, in the tokenizer's order."""
        return tuple(self.calibration.features)


def load_model(config: RunConfig, progress: Progress | None = None) -> Loaded:
    """Loads checkpoint and target; calibration and evaluation data stay empty.

    Args:
        config: resolved options.
        progress: receives what the checkpoint's files leave open, and what was set right; None says nothing.

    Raises:
        CompressError: of the class that fits the fault.
    """
    target = load_target(config.target).for_calls(config.batch_size, config.seq_len)
    candidates(config, target)
    with span("checkpoint"):
        checkpoint = load_checkpoint(
            config.model, config.task, config.seq_len, embedding=config.embedding, prompt=config.prompt
        )
    longest = longest_text(checkpoint.tokenizer)
    if config.seq_len > longest and config.seq_len != DEFAULTS["seq_len"]:
        raise ConfigError(
            f"--seq-len {config.seq_len} is more than the {longest:.0f} tokens that the model's tokenizer cuts texts "
            f"to; --seq-len must be at most {longest:.0f}, or raise model_max_length in tokenizer_config.json "
            "(max_seq_length in sentence_bert_config.json)"
        )
    if progress is not None:
        for sentence in checkpoint.said:
            progress.info(sentence)
        if config.seq_len > longest:
            progress.info(f"texts are cut to {longest:.0f} tokens, as the model's tokenizer does")
    say = None if progress is None else progress.info
    compute = Compute(config.device, Need.of(checkpoint, config.seq_len), say)
    none = _no_examples(checkpoint)
    return Loaded(checkpoint, target, none, none, none, compute=compute)


def load(config: RunConfig, progress: Progress, *, evaluation: bool = True, further: bool = False) -> Loaded:
    """Loads and checks all inputs of a run.

    Args:
        config: resolved options.
        progress: receives guesses and warnings.
        evaluation: whether evaluation data is needed.
        further: whether more examples to distil on are needed, as many as the options say.

    Raises:
        CompressError: of the class that fits the fault.
    """
    refuse_absent(config.device)
    bare = load_model(config, progress)
    checkpoint = bare.checkpoint
    if checkpoint.left_out:
        progress.info(f"weights that the model does not use are left out: {', '.join(checkpoint.left_out[:3])}")
    with span("data"):
        train, held, note = train_and_validation(
            config.calibration_data, config.eval_data, config.seed, evaluation, checkpoint.task.reads_words
        )
    for sentence in dict.fromkeys((*notes_of(train), *notes_of(held))):
        progress.info(sentence)
    if note:
        progress.info(note)
    splits = {CALIBRATION: train} if held is None else {CALIBRATION: train, EVALUATION: held}
    columns = _columns(config, checkpoint, splits, progress)
    calibration = _encode(config, checkpoint, train, columns[CALIBRATION], config.samples)
    progress.info(f"{len(calibration)} calibration examples of {calibration.mean_length:.1f} tokens on average")
    if (alone := _only_label(calibration)) is not None:
        progress.info(
            f"warning: all calibration examples have the label {alone}; the model would be fitted without texts of the "
            "other classes: mix the data, or give more of it"
        )
    checkpoint = replace(checkpoint, task=checkpoint.task.of_calibration(calibration))
    more = bare.further
    if further and (count := _further(config, calibration)):
        more = _others(config, checkpoint, train, columns[CALIBRATION], calibration, count)
        progress.info(f"{len(more)} further examples of the data to distil on")
    examples = bare.evaluation
    if held is not None:
        examples = _encode(config, checkpoint, held, columns[EVALUATION], None)
    rows = train if _trains(config) else None
    loaded = Loaded(checkpoint, bare.target, calibration, examples, more, columns, rows, bare.compute)
    _check_standing(config, loaded, splits, progress)
    return loaded


def _trains(config: RunConfig) -> bool:
    return config.fine_prune is not None or config.unstructured is not None


def _columns(
    config: RunConfig, checkpoint: Checkpoint, splits: Mapping[str, Dataset], progress: Progress
) -> Mapping[str, Columns]:
    """Returns the columns of each split, after saying what was guessed and how labels are read."""
    task = checkpoint.task
    chosen = task.columns_of(splits, checkpoint.model.config, config.text_column, config.label_column)
    said = list(chosen.columns[CALIBRATION].guesses)
    if EVALUATION in chosen.columns:
        said += [guess for guess in chosen.columns[EVALUATION].guesses if EVALUATION in guess]
    said.append(chosen.reading or "")
    if task.one_choice:
        said.append(label_difference({name: own.label is not None for name, own in chosen.columns.items()}) or "")
    for sentence in filter(None, said):
        progress.info(sentence)
    return chosen.columns


def _check_standing(config: RunConfig, loaded: Loaded, splits: Mapping[str, Dataset], progress: Progress) -> None:
    """Holds the dense model's metric against chance, on the evaluation data or else the calibration data."""
    labelled = [name for name, own in loaded.columns.items() if own.label is not None]
    split = EVALUATION if EVALUATION in labelled else CALIBRATION
    if split not in labelled or (split == CALIBRATION and config.label_free):
        return
    rows, columns = splits[split], loaded.columns[split]
    examples = loaded.evaluation
    if split == CALIBRATION or len(rows) > MOST_ROWS:
        examples = _encode(config, loaded.checkpoint, sample_rows(rows, MOST_ROWS, config.seed), columns, None)

    def check() -> None:
        with loaded.compute.on(loaded.checkpoint) as there:
            check_standing(there, examples, columns, split, progress, allow_chance=config.allow_chance)

    loaded.compute.attempt(check)


def settle_seq_len(config: RunConfig, loaded: Loaded) -> RunConfig:
    """Returns the options with the model's sequence length.

    The size of an image fixes its number of positions, and a tokenizer may cut texts shorter than the default length.

    Args:
        config: resolved options.
        loaded: the loaded inputs.

    Raises:
        ConfigError: ``--seq-len`` was given for a model of images.
    """
    positions = loaded.calibration.positions
    longest = longest_text(loaded.checkpoint.tokenizer)
    if positions is None and config.seq_len > longest:
        return config.model_copy(update={"seq_len": int(longest)})
    if positions is None or config.seq_len == positions:
        return config
    if config.seq_len != DEFAULTS["seq_len"]:
        raise ConfigError(
            f"--seq-len {config.seq_len} is for texts: this model reads {positions} positions of every image, as its "
            "image and patch size say; leave it out"
        )
    return config.model_copy(update={"seq_len": positions})


def load_training(config: RunConfig, loaded: Loaded, most: int | None, seq_len: int | None) -> Encoded:
    """Loads the examples to train on: all examples that calibration was drawn from.

    Args:
        config: resolved options.
        loaded: checkpoint and task.
        most: number of examples at most, drawn at random; None for all.
        seq_len: tokens per example; None takes the length of ``config``.

    Raises:
        DataError: as for ``load``.
    """
    rows = loaded.rows
    if rows is None:
        rows, _, _ = train_and_validation(
            config.calibration_data, config.eval_data, config.seed, words=loaded.checkpoint.task.reads_words
        )
    cut = config if seq_len is None else config.model_copy(update={"seq_len": seq_len})
    return _encode(cut, loaded.checkpoint, rows, loaded.columns[CALIBRATION], most)


def train_and_validation(
    data: str, eval_data: str | None, seed: int, evaluation: bool = True, words: bool | None = None
) -> tuple[Dataset, Dataset | None, str]:
    """Loads rows to learn from and rows to validate on; a single file is split.

    Args:
        data: file, directory or hub name.
        eval_data: file, directory or hub name of the rows to validate on; None takes the validation part of ``data``.
        seed: seed of the split.
        evaluation: whether rows to validate on are needed.
        words: whether a tag per word is expected, as for ``load_data``.

    Returns:
        Rows to learn from; rows to validate on, None if not needed; a sentence about the split, empty without one.

    Raises:
        DataError: as for ``load_data``; or a single file has too few rows to split.
    """
    train = load_data(data, "train", words)
    if not evaluation:
        return train, None, ""
    if eval_data is not None:
        return train, load_data(eval_data, "validation", words), ""
    if not is_one_part(data):
        return train, load_data(data, "validation", words), ""
    train, held = _hold_back(train, seed)
    return train, held, f"{len(held)} rows of {data} are held back to validate on (--eval-data names other data)"


@span("tokens")
def _encode(config: RunConfig, checkpoint: Checkpoint, rows: Dataset, columns: Columns, samples: int | None) -> Encoded:
    seq_len = int(min(config.seq_len, longest_text(checkpoint.tokenizer)))
    encoded = checkpoint.task.encode(
        sample_rows(rows, samples, config.seed),
        checkpoint.tokenizer,
        columns,
        seq_len,
        checkpoint.model.config,
    )
    # A row may give several examples: the two texts of a pair, the windows of a long context.
    return encoded if samples is None else encoded.take(samples, config.seed)


def _further(config: RunConfig, calibration: Encoded) -> int:
    """How many further examples the options ask for."""
    if config.method != "full" or config.unstructured is not None:
        return 0
    if config.distill_samples is not None:
        return config.distill_samples
    # Images are kept as the model reads them, half a megabyte each.
    return EFFORT[config.effort].further if calibration.positions is None else 0


def _others(
    config: RunConfig, checkpoint: Checkpoint, rows: Dataset, columns: Columns, calibration: Encoded, count: int
) -> Encoded:
    """Returns so many examples, or as many as there are, that differ from those of calibration; without labels."""
    unlabelled = replace(columns, label=None)
    # The same seed draws the rows of calibration again, and others.
    wider = _encode(config, checkpoint, rows, unlabelled, config.samples + count)
    return wider.without(calibration).take(count, config.seed)


def _hold_back(rows: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    import numpy as np

    count = min(_HELD_BACK_ROWS, int(_HELD_BACK * len(rows)))
    if count < 1:
        raise DataError(
            f"{len(rows)} {'row is' if len(rows) == 1 else 'rows are'} too few to calibrate and to validate on; give "
            "evaluation data with --eval-data"
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    return select_rows(rows, np.sort(order[count:])), select_rows(rows, np.sort(order[:count]))


def _only_label(data: Encoded) -> int | None:
    """Returns the label that all examples share; None if there are several labels, or none, or numbers on a scale."""
    labels = data.labels
    if labels is None or labels.ndim != 1 or labels.dtype.kind != "i" or len(labels) < 2:
        return None
    return int(labels[0]) if bool((labels == labels[0]).all()) else None


def _no_examples(checkpoint: Checkpoint) -> Encoded:
    return checkpoint.task.no_examples(checkpoint.tokenizer, checkpoint.model.config)
