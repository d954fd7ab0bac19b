"""What each option means, said once: the command line's help, ``compress.toml`` and ``RunConfig`` all read it here.

Light on purpose: ``compress --help`` imports this, and nothing that it would have to wait for.
"""

from __future__ import annotations

CONFIG_FILE = "compress.toml"

# In the order in which people need them.
HELP: dict[str, str] = {
    "model": "Fine-tuned checkpoint: a local directory or a hub name.",
    "data": "Data to calibrate on: a csv/tsv/jsonl/parquet file, a directory with train and validation files, "
    "or a hub data set.",
    "eval_data": "Data to validate on; without it, the validation part of the data.",
    "task": "Task of the checkpoint; without it, guessed from the checkpoint.",
    "latency_ms": "Budget: median milliseconds of one call on the target, warm, at this batch size and length.",
    "speedup": "Budget: how many times faster than the dense model, exported the same way.",
    "macs": "Budget: fraction of the encoder's multiply-accumulates to keep, above 0, at most 1.",
    "unstructured": "Instead of a budget: fraction of the single weights of the encoder's linear layers that stay, "
    "above 0, at most 1. Saves bytes, not time.",
    "target": "Device to run on: a name from `compress targets`, or a TOML file.",
    "batch_size": "Examples per call in deployment; latency is measured with it.",
    "seq_len": "Tokens per example in deployment; longer texts are cut. Images have as many as their patches.",
    "precision": "Number format of the exported model; auto tries all that the target has and keeps the most accurate "
    "within the budget. Without it, the target's.",
    "size_mb": "Second constraint, beside the budget: size of the exported file, 10^6 bytes.",
    "int8_drop": "Most that int8 may lose of the metric, compared with the same model in fp32; more is refused.",
    "method": "full: exact search over the measured latency table; kwon: the search of Kwon et al., 2022.",
    "samples": "Examples to calibrate on, drawn at random.",
    "label_free": "Calibrate without labels, even where the data has them.",
    "text_column": "Column with the text; for pairs of texts, both names with a comma between.",
    "label_column": "Column with the labels.",
    "embedding": "What the exported file of a sentence encoder gives: normalized or pooled embeddings, or tokens (the "
    "last hidden state); without it, what the checkpoint's own notes say.",
    "profile": "Profile made by `compress profile`, to use instead of measuring.",
    "fine_prune": "Train what the search found, by a recipe: quick, standard, thorough, or a TOML file of your own.",
    "teacher": "Checkpoint that fine-pruning distils from, with the same labels and tokenizer; without it, the model.",
    "checkpoints": "Directory for checkpoints of fine-pruning; the same command goes on from the last one there.",
    "checkpoint_minutes": "Minutes between checkpoints of fine-pruning.",
    "effort": "How long to measure, search and reconstruct: fast, standard or thorough.",
    "search_seconds": "Try out structures for so long; without it, as many as the effort says (reproducibly), 0 none.",
    "seed": "Seed of every random choice.",
    "output": "Directory for the artifact, new or empty; without it, artifacts/<model>-<target>-<budget>.",
}

# What holds without the option, where that is one value; RunConfig has the same (tested).
DEFAULTS: dict[str, str | int | float] = {
    "target": "cpu",
    "batch_size": 1,
    "seq_len": 128,
    "int8_drop": 0.01,
    "method": "full",
    "samples": 2048,
    "checkpoint_minutes": 5.0,
    "effort": "standard",
    "seed": 0,
}

# Limits of `compress gate`, and lines of the table [gate].
GATE_HELP: dict[str, str] = {
    "max_size_mb": "Size of the whole artifact, MB (10^6 bytes); '102 % of baseline'. '60 %' is of the dense model's "
    "file, and then of the exported file alone.",
    "max_file_size_mb": "Size of every single file, MB; for one file: model.onnx=20.",
    "max_latency_ms": "Median latency, ms; '60 %' is of the dense model's, '105 % of baseline'.",
    "min_speedup": "Speed-up over the dense model; '95 % of baseline'.",
    "min_accuracy": "The metric, as validation.json has it (a fraction); '99 % of dense' or '99 % of baseline'.",
    "max_drop": "Loss of the metric against the dense model; '1 %' is of its value, '0.01 against baseline'.",
    "max_macs": "Multiply-accumulates kept, a fraction of the dense model's; '101 % of baseline'.",
    "max_parity": "Largest difference of the exported file's outputs from PyTorch's.",
    "max_age_days": "Latencies recorded longer ago settle nothing.",
    "device": "Text that the name of the device in validation.json has to have in it.",
}

# What a run is asked for, one of them; the last one is no budget that other commands know.
BUDGETS = ("latency_ms", "speedup", "macs", "unstructured")
METHODS = ("full", "kwon")
EFFORTS = ("fast", "standard", "thorough")
PRECISIONS = ("fp32", "fp16", "int8", "auto")
EMBEDDINGS = ("normalized", "pooled", "tokens")


def flag(name: str) -> str:
    """The command line's spelling of an option: ``seq_len`` is ``--seq-len``; the model is an argument."""
    return "MODEL" if name == "model" else "--" + name.replace("_", "-")
