"""Loads a checkpoint: weights, tokenizer, family and task, all checked before anything is computed.

Only safetensors are read, never pickle, and code from a checkpoint is never run. A model of the hub is first downloaded
to the hub's cache; after that only local files are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import ModelError
from compress.data.hub import existing_path, hub_reachable, looks_like_path
from compress.data.tables import first_line
from compress.inputs.processors import IMAGE_PROCESSOR_FILES, TOKENIZER_FILES, load_image_processor, load_tokenizer
from compress.inputs.sentence_encoder import MODULES, PATTERNS, find_sentence_folder, pickled_layers, sentence_task
from compress.inputs.task_choice import choose_task, refuse_sentence_options
from compress.inputs.tokenizer_settings import settle_tokenizer
from compress.models.encoder import Encoder, encoder_of, family_of, image_input, longest_input, shape_of
from compress.tasks import SentenceSimilarity, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress.tasks.sentence_similarity import Embedding

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
# Errors of transformers for weights that contradict the configuration; it has no error class of its own for them.
_LOADING_ERRORS = (
    *(OSError, ValueError, RuntimeError, TypeError, KeyError, IndexError, AttributeError, AssertionError, ImportError),
)


@dataclass(frozen=True)
class Checkpoint:
    """A dense model with everything that calibration needs.

    Attributes:
        name: the name of the directory or repository, without path or owner.
        model: with its task head, float32, in evaluation mode, without gradients.
        tokenizer: the tokenizer saved beside it; for a model of images the image processor.
        encoder: the encoder's sizes, layers and modules by role.
        task: the task of the head.
        fingerprint: SHA-256 (hex) of the weights file, or of a list of names and hashes if there are several files.
        directory: the checkpoint's files (for a model of the hub: in the hub's cache).
        said: sentences for the user: what is assumed, left out, or set right.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Any
    encoder: Encoder
    task: Task
    fingerprint: str
    directory: Path
    said: tuple[str, ...] = ()


def load_checkpoint(
    model: str,
    task: str | None = None,
    seq_len: int | None = None,
    *,
    embedding: Embedding | None = None,
    prompt: str | None = None,
) -> Checkpoint:
    """Loads and checks a checkpoint.

    Args:
        model: a local directory, or a name on the hub.
        task: a name of ``TASKS``; None infers the task from the checkpoint's head.
        seq_len: the sequence length it will be used with, special tokens included; None skips the check.
        embedding: what the exported file of a sentence encoder gives; None takes what its files say.
        prompt: name of a sentence encoder's prompt, ``none`` for no prompt; None takes its default.

    Raises:
        ModelError: the checkpoint is missing or damaged, is not an encoder of a supported family, has no trained head
            that fits the task, has weights that are NaN or infinite, has no tokenizer, or has fewer than ``seq_len``
            positions.
        ConfigError: there is no such task or prompt, or the task has no embeddings or prompts.
    """
    given = _local_directory(model)
    folder = find_sentence_folder(given) if task in (None, SentenceSimilarity.name) else None
    # Older folders of sentence-transformers keep the transformer in a folder of its own.
    directory = given if folder is None else folder.transformer
    config = _read_config(directory, model)
    files = _weight_files(directory, model)
    chosen, said = choose_task(config, task, folder, files)
    _check_length(config, seq_len, model)
    fingerprint = _fingerprint(files)
    with _quiet():
        load = load_image_processor if chosen.processor == "image" else load_tokenizer
        tokenizer = load(directory, config, model)
    if isinstance(chosen, SentenceSimilarity):
        lower_case, longest = (False, None) if folder is None else (folder.lower_case, folder.max_seq_length)
        said += settle_tokenizer(tokenizer, lower_case=lower_case, longest=longest)
        chosen, lines = sentence_task(folder, embedding, prompt, tokenizer)
        said += lines
    else:
        if chosen.processor == "tokenizer":
            said += settle_tokenizer(tokenizer)
        refuse_sentence_options(chosen, embedding, prompt)
    network = _load_model(directory, config, chosen, model)
    return Checkpoint(
        # Directories in the hub's cache are named after commits.
        name=given.name if existing_path(model) else model.rsplit("/", 1)[-1],
        model=network,
        tokenizer=tokenizer,
        encoder=encoder_of(network),
        task=chosen,
        fingerprint=fingerprint,
        directory=directory,
        said=tuple(said),
    )


def _local_directory(model: str) -> Path:
    try:
        path = existing_path(model)
        if path is not None and path.is_dir():
            return path.resolve()
    except OSError as error:
        raise ModelError(f"model '{model}' cannot be read: {first_line(error)}") from None
    if path is not None:
        raise ModelError(f"model '{model}' is a file; give the directory that holds config.json and {WEIGHTS}")
    if looks_like_path(model):
        raise ModelError(f"model '{model}' does not exist; give a directory with a checkpoint, or a name on the hub")
    return _from_hub(model)


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    advice = f"if '{model}' was meant as a path, there is no such directory"
    # Without a connection the model may still be in the cache.
    cached_only = not hub_reachable()
    try:
        with _quiet():
            config = _first_file(model, cached_only)
            # Checked before gigabytes of a model that cannot be compressed are downloaded.
            if config.name == "config.json":
                _read_config(config.parent, model)
            beside = (*TOKENIZER_FILES, *IMAGE_PROCESSOR_FILES, *PATTERNS)
            patterns = ["config.json", WEIGHTS, WEIGHTS_INDEX, "model-*-of-*.safetensors", *beside]
            path = Path(snapshot_download(model, allow_patterns=patterns, local_files_only=cached_only))
            if pickled := pickled_layers(path):
                snapshot_download(model, allow_patterns=pickled, local_files_only=cached_only)
            return path
    except (OSError, ValueError, RuntimeError) as error:
        if cached_only:
            raise ModelError(
                f"model '{model}' is not on this machine and the hub cannot be reached; {advice}"
            ) from None
        raise ModelError(f"cannot get model '{model}' from the hub: {first_line(error)}; {advice}") from None


def _first_file(model: str, cached_only: bool) -> Path:
    """Gets a model's config.json; modules.json where the transformer has a folder of its own."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(model, "config.json", local_files_only=cached_only))
    except EntryNotFoundError as error:
        try:
            return Path(hf_hub_download(model, MODULES, local_files_only=cached_only))
        except EntryNotFoundError:
            raise error from None


def _read_config(directory: Path, model: str) -> Any:
    """Reads the configuration and checks that its family is supported."""
    from transformers import AutoConfig

    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"model '{model}' has no config.json; give a checkpoint saved with save_pretrained")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        family = raw.get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"'{file}' cannot be read as a configuration: {first_line(error)}") from None
    # Checked before transformers, which knows far more families and may run a checkpoint's own code for others.
    family_of(str(family))
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
        shape_of(config)
    except ModelError:
        raise
    # The errors for a wrong value differ between releases of transformers and have no common base class.
    except Exception as error:
        raise ModelError(f"'{file}' is not a valid {family} configuration: {_one_line(error)}") from None
    if getattr(config, "quantization_config", None):
        raise ModelError(f"model '{model}' is quantized already; give the checkpoint it was quantized from")
    return config


def _check_length(config: Any, seq_len: int | None, model: str) -> None:
    # The number of positions of an image is fixed: `inputs.load.settle_seq_len` checks the option.
    longest = longest_input(config) if image_input(config) is None else None
    if seq_len is not None and longest is not None and seq_len > longest:
        raise ModelError(
            f"sequence length {seq_len} is beyond the {longest} positions of model '{model}'; "
            f"--seq-len must be at most {longest}"
        )


def _weight_files(directory: Path, model: str) -> list[Path]:
    """Returns the safetensors files after checking that each is complete."""
    if (directory / WEIGHTS).is_file():
        files = [directory / WEIGHTS]
    elif (directory / WEIGHTS_INDEX).is_file():
        index = directory / WEIGHTS_INDEX
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            # A name with a folder in it could lead anywhere.
            files = [directory / Path(str(name)).name for name in names]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"'{index}' is not a list of weight files: {error!r}; save the checkpoint again") from None
    else:
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.h5") for p in directory.glob(pattern))
        advice = (
            f"it has {', '.join(pickled)}, which can run code when read; convert it with save_pretrained"
            if pickled
            else "give a checkpoint saved with save_pretrained"
        )
        raise ModelError(f"model '{model}' has no {WEIGHTS}: {advice}")
    for file in files:
        _check_safetensors(file)
    return files


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as stream:
            start = stream.read(40)
        if start.startswith(b"version https://git-lfs"):
            raise ModelError(f"'{file}' is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
        with safe_open(str(file), framework="numpy"):
            pass
    except OSError as error:
        raise ModelError(f"weights '{file}' cannot be read: {first_line(error)}") from None
    except SafetensorError as error:
        raise ModelError(f"weights '{file}' are damaged or cut off: {first_line(error)}; copy them again") from None


def _fingerprint(files: list[Path]) -> str:
    hashes = []
    for file in files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
        hashes.append(digest.hexdigest())
    if len(files) == 1:
        return hashes[0]
    lines = "".join(f"{one}  {file.name}\n" for one, file in zip(hashes, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _load_model(directory: Path, config: Any, task: Task, model: str) -> PreTrainedModel:
    import torch
    import transformers
    from safetensors import SafetensorError

    loader = getattr(transformers, task.auto_class_name)
    try:
        with _quiet():
            network, report = loader.from_pretrained(
                str(directory),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (*_LOADING_ERRORS, SafetensorError) as error:
        raise ModelError(f"model '{model}' cannot be loaded: {_one_line(error)}") from None
    _check_complete(network, report, task, model)
    if isinstance(task, SentenceSimilarity):
        # config.json may name a head that was left out; whoever reads the artifact builds this class.
        network.config.architectures = [type(network).__name__]
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"model '{model}' has {bad} weights that are NaN or infinite in '{name}'; use a sound checkpoint"
            )
    network.requires_grad_(False)
    return network.eval()


def _check_complete(network: Any, report: dict[str, Any], task: Task, model: str) -> None:
    """Raises ModelError if weights were missing, so that transformers initialised them at random."""
    mismatched = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get("mismatched_keys", ()))
    if mismatched:
        raise ModelError(
            f"model '{model}': the weights {_first_few(mismatched)} do not have the sizes that config.json says"
        )
    missing = []
    for key in sorted(report.get("missing_keys", ())):
        if key.startswith(task.unread_weights):
            # transformers initialised it at random: zeros are the same in every run.
            network.get_parameter(key).data.zero_()
        else:
            missing.append(key)
    head = [key for key in missing if not key.startswith(f"{network.base_model_prefix}.")]
    if head:
        raise ModelError(
            f"model '{model}' has no trained head for {task.name}: {_first_few(head)} missing in its weights; "
            "fine-tune it on the task first"
        )
    if missing:
        raise ModelError(f"model '{model}' is incomplete: {_first_few(missing)} missing in its weights")


def _first_few(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(f"'{key}'" for key in keys[:3]) + more


def _one_line(error: BaseException) -> str:
    # Some messages give the reason only after their first line.
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Turns off progress bars and log lines of transformers and the hub; restores the user's settings at the end."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    level, bars, downloads = logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not downloads:
            enable_progress_bars()
