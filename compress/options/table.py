"""Every option of a run, stated once: help, default, bounds, how the command line and ``compress.toml`` read it.

``RunConfig``, the command line, ``compress init`` and all messages derive from this table. It is light: ``compress
--help`` imports it, so it waits for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CONFIG_FILE = "compress.toml"

# Exactly one is the budget of a run; other commands do not know the last.
BUDGETS = ("latency_ms", "speedup", "macs", "unstructured")
METHODS = ("full", "kwon")
EFFORTS = ("fast", "standard", "thorough")
PRECISIONS = ("fp32", "fp16", "int8", "auto")
FORMATS = PRECISIONS[:-1]
INT8 = ("invariant", "fastest")
EMBEDDINGS = ("normalized", "pooled", "tokens")
CHECKPOINTS = ("narrow", "padded")

# When a value in a file is a path, and then relative to that file: always; where it ends in .toml or is written as a
# path, else it is a name; where it exists or is written as a path, else it is a hub name.
Place = Literal["path", "name or path", "hub name or path"]


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: in ``compress.toml`` and in Python; with hyphens on the command line.
        help: its meaning.
        default: value without the option; None where it is then absent.
        shows_default: whether the help names the default: not for a flag, and not where the target has its own.
        type: of the value.
        choices: allowed texts; empty where any is.
        above: bound of a number, excluded; None for none.
        least: bound of a number, included; None for none.
        most: bound of a number, included; None for none.
        metavar: name of the value on the command line; None where choices stand there, or for a flag.
        example: value that ``compress init`` shows where there is no default.
        place: when a value names something on disk; None where it never does.
        pointless_unstructured: why it means nothing together with ``unstructured``; None where it does.
    """

    name: str
    help: str
    default: str | int | float | None = None
    shows_default: bool = True
    type: type[str] | type[int] | type[float] | type[bool] = str
    choices: tuple[str, ...] = ()
    above: float | None = None
    least: float | None = None
    most: float | None = None
    metavar: str | None = None
    example: str | float = "..."
    place: Place | None = None
    pointless_unstructured: str | None = None


# In the order in which people need them.
OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option(
            "model",
            "Fine-tuned checkpoint: a local directory or a hub name.",
            example="path/to/model",
            place="hub name or path",
        ),
        Option(
            "data",
            "Data to calibrate on: a csv/tsv/jsonl/parquet file, a directory with train and validation files, "
            "or a hub data set.",
            metavar="D",
            example="path/to/train.csv",
            place="hub name or path",
        ),
        Option(
            "eval_data",
            "Data to validate on; without it, the validation part of the data.",
            metavar="E",
            place="hub name or path",
        ),
        Option("task", "Task of the checkpoint; without it, guessed from the checkpoint.", metavar="T"),
        Option(
            "latency_ms",
            "Budget: median milliseconds of one call on the target, warm, at this batch size and length.",
            type=float,
            above=0,
            metavar="X",
            example=5.0,
        ),
        Option(
            "speedup",
            "Budget: how many times faster than the dense model, exported the same way.",
            type=float,
            above=0,
            metavar="X",
            example=2.0,
        ),
        Option(
            "macs",
            "Budget: fraction of the encoder's multiply-accumulates to keep, above 0, at most 1.",
            type=float,
            above=0,
            most=1,
            metavar="F",
            example=0.5,
        ),
        Option(
            "unstructured",
            "Instead of a budget: fraction of the single weights of the encoder's linear layers that stay, "
            "above 0, at most 1. Saves bytes, not time.",
            type=float,
            above=0,
            most=1,
            metavar="F",
            example=0.1,
        ),
        Option(
            "target",
            "Device to run on: a name from `compress targets`, or a TOML file.",
            default="cpu",
            metavar="NAME",
            place="name or path",
            pointless_unstructured="nothing is made for a device",
        ),
        Option(
            "batch_size",
            "Examples per call in deployment; latency is measured with it.",
            default=1,
            type=int,
            least=1,
            metavar="N",
        ),
        Option(
            "seq_len",
            "Tokens per example in deployment; longer texts are cut. Images have as many as their patches.",
            default=128,
            type=int,
            least=1,
            metavar="N",
        ),
        Option(
            "precision",
            "Number format of the exported model; auto tries all that the target has and keeps the most accurate "
            "within the budget. Without it, the target's.",
            default="fp32",
            shows_default=False,
            choices=PRECISIONS,
            pointless_unstructured="the compact file is int8 as it is, and model.onnx stays fp32",
        ),
        Option(
            "keep",
            "Number formats that the artifact holds, with commas between: model.onnx is the most accurate of them "
            "within the budget, or that of --precision; the others are the same pruned model in files beside it.",
            metavar="P,P,...",
            example="fp32,int8",
            pointless_unstructured="the compact file is int8 as it is, and model.onnx stays fp32",
        ),
        Option(
            "size_mb",
            "Second constraint, beside the budget: size of the exported file, 10^6 bytes.",
            type=float,
            above=0,
            metavar="X",
            example=50.0,
            pointless_unstructured="the fraction settles the size",
        ),
        Option(
            "int8",
            "invariant: answers of int8 do not depend on what shares a call; fastest: they may. Without it, invariant "
            "where that costs less than 10 % in speed.",
            choices=INT8,
            example="invariant",
            pointless_unstructured="the compact file is int8 as it is, and model.onnx stays fp32",
        ),
        Option(
            "int8_drop",
            "Most that int8 may lose of the metric, compared with the same model in fp32; more is refused.",
            default=0.01,
            type=float,
            least=0,
            most=1,
            metavar="F",
        ),
        Option(
            "method",
            "full: exact search over the measured latency table; kwon: the search of Kwon et al., 2022.",
            default="full",
            choices=METHODS,
            pointless_unstructured="there is no structure to search for",
        ),
        Option(
            "samples",
            "Examples to calibrate on, drawn at random.",
            default=2048,
            type=int,
            least=1,
            metavar="N",
        ),
        Option(
            "distill_samples",
            "Further examples of the data, labels aside, that joint reconstruction distils the dense model on; without "
            "it, as many as the effort says; 0 uses those of --samples alone.",
            type=int,
            least=0,
            metavar="N",
            example=16384,
            pointless_unstructured="fine-pruning trains on all of the data",
        ),
        Option(
            "label_free",
            "Calibrate without labels, even where the data has them.",
            default=False,
            shows_default=False,
            type=bool,
        ),
        Option(
            "allow_chance",
            "Go on where the dense model's metric is not above chance.",
            default=False,
            shows_default=False,
            type=bool,
        ),
        Option(
            "text_column",
            "Column with the text; for pairs of texts, both names with a comma between.",
            metavar="NAME",
        ),
        Option("label_column", "Column with the labels.", metavar="NAME"),
        Option(
            "embedding",
            "What the exported file of a sentence encoder gives: normalized or pooled embeddings, or tokens (the "
            "last hidden state); without it, what the checkpoint's own notes say.",
            choices=EMBEDDINGS,
            example="normalized",
        ),
        Option(
            "prompt",
            "Prompt of a sentence encoder that is put before every text: a name from its files, or none; without it, "
            "the encoder's default prompt.",
            metavar="NAME",
            example="query",
        ),
        Option(
            "profile",
            "Profile made by `compress profile`, to use instead of measuring.",
            metavar="FILE",
            place="path",
            pointless_unstructured="nothing is timed",
        ),
        Option(
            "fine_prune",
            "Train what the search found, by a recipe: quick, standard, thorough, or a TOML file of your own.",
            metavar="RECIPE",
            example="quick",
            place="name or path",
        ),
        Option(
            "teacher",
            "Checkpoint that fine-pruning distils from, with the same labels and tokenizer; without it, the model.",
            metavar="MODEL",
            place="hub name or path",
        ),
        Option(
            "checkpoints",
            "Directory for checkpoints of fine-pruning; the same command goes on from the last one there.",
            metavar="DIR",
            place="path",
        ),
        Option(
            "checkpoint_minutes",
            "Minutes between checkpoints of fine-pruning.",
            default=5.0,
            type=float,
            above=0,
            metavar="M",
        ),
        Option(
            "effort",
            "How long to measure, search and reconstruct: fast, standard or thorough.",
            default="standard",
            choices=EFFORTS,
            pointless_unstructured="nothing is measured, searched for or reconstructed",
        ),
        Option(
            "search_seconds",
            "Try out structures for so long; without it, as many as the effort says (reproducibly), 0 none.",
            type=float,
            least=0,
            metavar="S",
            example=60.0,
            pointless_unstructured="there is no structure to search for",
        ),
        Option(
            "device",
            "Where PyTorch computes here, now: calibration, reconstruction, training. Another thing than --target, "
            "where the artifact will run. auto: a GPU that has room, else the processor.",
            default="auto",
            metavar="auto|cpu|cuda|cuda:N|mps",
        ),
        Option("seed", "Seed of every random choice.", default=0, type=int, least=0, most=2**32 - 1, metavar="N"),
        Option(
            "pytorch",
            "narrow: the PyTorch checkpoint loads with compress.load; padded: one of equal widths stands beside "
            "model.onnx too, which transformers loads by itself.",
            default="narrow",
            choices=CHECKPOINTS,
            pointless_unstructured="its checkpoint has equal widths as it is",
        ),
        Option(
            "output",
            "Directory for the artifact, new or empty; without it, artifacts/<model>-<target>-<budget>.",
            metavar="DIR",
            place="path",
        ),
    )
}


def flag(name: str) -> str:
    """Return the command line's spelling of an option: ``--seq-len`` of ``seq_len``; the model is an argument."""
    return "MODEL" if name == "model" else "--" + name.replace("_", "-")
