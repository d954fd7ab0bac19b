"""Loads a checkpoint: weights, tokenizer, family and task, all checked before anything is computed.

Weights are safetensors, or are converted to them (``inputs/conversion.py``). Code from a checkpoint is never run. A
model of the hub is first downloaded to the hub's cache; after that only local files are read. ``inputs/folder.py`` says
what a folder may not have.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import ModelError
from compress.data.hub import existing_path, from_hub, hub_reachable, looks_like_path
from compress.data.text_files import first_line
from compress.inputs.adapter import find_adapter, say_head
from compress.inputs.configuration import one_line, read_config
from compress.inputs.conversion import in_safetensors
from compress.inputs.folder import (
    ADAPTER_CONFIG,
    WEIGHTS,
    WEIGHTS_INDEX,
    not_merged,
    refuse_adapter,
    refuse_without_config,
    weight_files,
)
from compress.inputs.head import check_head
from compress.inputs.pickled import PATTERNS as PICKLED
from compress.inputs.processors import (
    IMAGE_PROCESSOR_FILES,
    TOKENIZER_CONFIG,
    load_image_processor,
    load_tokenizer,
    tokenizer_files,
)
from compress.inputs.quiet import quiet
from compress.inputs.sentence_encoder import (
    MODULES,
    PATTERNS,
    find_sentence_folder,
    keep_activation,
    pickled_layers,
    sentence_task,
)
from compress.inputs.setfit import HEAD, has_head, read_head
from compress.inputs.setfit import SETTINGS as SETFIT
from compress.inputs.task_choice import choose_task, refuse_sentence_options
from compress.inputs.tokenizer_settings import settle_tokenizer
from compress.inputs.weights import check_files, check_finite, check_names, fingerprint
from compress.models.encoder import Encoder, encoder_of, image_input, longest_input
from compress.tasks import SentenceSimilarity, Task
from compress.tasks.classified_embedding import ClassifiedEmbedding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress.inputs.adapter import Adapter
    from compress.inputs.sentence_encoder import SentenceFolder
    from compress.tasks.sentence_similarity import Embedding
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
        left_out: weights of the checkpoint that are not part of the model, such as another head.
        said: sentences for the user: what is assumed, left out, or set right.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Any
    encoder: Encoder
    task: Task
    fingerprint: str
    directory: Path
    left_out: tuple[str, ...] = ()
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
        ModelError: the checkpoint is missing or damaged, is an adapter that cannot be merged, is not an encoder of a
            supported family, has no trained head that fits the task, has weights that are NaN, infinite or quantized,
            has no tokenizer, has fewer than ``seq_len`` positions, or cannot be saved again.
        ConfigError: there is no such task or prompt, or the task has no embeddings or prompts.
    """
    source = _find(model, task)
    refuse_without_config(source.directory, model)
    config = read_config(source.directory, model)
    keep_activation(source.directory, config)
    if source.adapter is not None:
        say_head(source.adapter, config)
    with in_safetensors(source.directory, source.adapter, model) as (weights, converted):
        files = weight_files(weights, model)
        check_files(files, model)
        chosen, said = choose_task(config, None if source.setfit else task, source.sentences, files)
        check_head(config, chosen, source.directory, files, model)
        _check_length(config, seq_len, model)
        with quiet():
            load = load_image_processor if chosen.processor == "image" else load_tokenizer
            tokenizer = load(source.beside(config), config, model)
        said += converted
        if has_head(source.given) and not source.setfit:
            said.append(f"the head of SetFit ({HEAD}) is left out: --task {ClassifiedEmbedding.name} keeps it")
        if isinstance(chosen, SentenceSimilarity):
            folder = source.sentences
            lower_case, longest = (False, None) if folder is None else (folder.lower_case, folder.max_seq_length)
            said += settle_tokenizer(tokenizer, lower_case=lower_case, longest=longest)
            chosen, lines = sentence_task(folder, embedding, prompt, tokenizer)
            said += lines
            if source.setfit:
                chosen = read_head(source.given, chosen, config, model)
                refuse_sentence_options(chosen, embedding, None)
        else:
            if chosen.processor == "tokenizer":
                said += settle_tokenizer(tokenizer)
            refuse_sentence_options(chosen, embedding, prompt)
        network, left_out = _load_model(weights, config, chosen, model)
        hashed = fingerprint(files)
    _try_to_save(network, tokenizer, model)
    return Checkpoint(
        # Directories in the hub's cache are named after commits.
        name=source.given.name if existing_path(model) else model.rsplit("/", 1)[-1],
        model=network,
        tokenizer=tokenizer,
        encoder=encoder_of(network),
        task=chosen,
        fingerprint=hashed,
        directory=source.directory,
        left_out=left_out,
        said=tuple(said),
    )


@dataclass(frozen=True)
class _Source:
    """The folders of a checkpoint.

    Attributes:
        given: what the user named.
        directory: of config.json and weights; of an adapter's base.
        adapter: to merge; None for none.
        sentences: the files of sentence-transformers; None without any.
        setfit: whether a head of SetFit classifies the embeddings.
    """

    given: Path
    directory: Path
    adapter: Adapter | None = None
    sentences: SentenceFolder | None = None
    setfit: bool = False

    def beside(self, config: Any) -> Path:
        """Returns the folder of the tokenizer: an adapter's own, if it has one."""
        if self.adapter is None:
            return self.directory
        names = tokenizer_files(self.given, config)
        return self.given if any((self.given / name).is_file() for name in names) else self.directory


def _find(model: str, task: str | None) -> _Source:
    given = _local_directory(model)
    adapter = find_adapter(given)
    if adapter is not None:
        return _Source(given, given if adapter.base is None else _base(adapter, adapter.base, model), adapter)
    refuse_adapter(given, model)
    setfit = has_head(given) and task in (None, ClassifiedEmbedding.name)
    folder = find_sentence_folder(given) if setfit or task in (None, SentenceSimilarity.name) else None
    # Older folders of sentence-transformers keep the transformer in a folder of its own.
    directory = given if folder is None else folder.transformer
    refuse_adapter(directory, model)
    return _Source(given, directory, sentences=folder, setfit=setfit and folder is not None)


def _base(adapter: Adapter, base: str, model: str) -> Path:
    try:
        directory = _local_directory(base)
    except ModelError as error:
        why = f"its base '{base}', named in {ADAPTER_CONFIG}, is missing: {error}"
        raise ModelError(not_merged(adapter.folder, model, why)) from None
    refuse_adapter(directory, base)
    return directory


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
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    advice = f"if '{model}' was meant as a path, there is no such directory"
    # Without a connection the model may still be in the cache.
    cached_only = not hub_reachable()
    try:
        with quiet():
            first = _first_file(model, cached_only)
            # Checked before gigabytes of a model that cannot be compressed are downloaded.
            beside: tuple[str, ...] = (TOKENIZER_CONFIG,)
            if first.name == "config.json":
                config = read_config(first.parent, model)
                # Without this file the class of the family's tokenizer is taken.
                with suppress(EntryNotFoundError):
                    hf_hub_download(model, TOKENIZER_CONFIG, local_files_only=cached_only)
                beside = tokenizer_files(first.parent, config)
            beside = (*beside, *IMAGE_PROCESSOR_FILES, *PATTERNS, ADAPTER_CONFIG, SETFIT)
            patterns = ["config.json", WEIGHTS, WEIGHTS_INDEX, "model-*-of-*.safetensors", *beside]

            def fetch(patterns: list[str]) -> Path:
                return Path(
                    from_hub(
                        model,
                        lambda: snapshot_download(model, allow_patterns=patterns, local_files_only=cached_only),
                    )
                )

            path = fetch(patterns)
            if (path / "config.json").is_file() and not any(path.glob("model*.safetensors")):
                fetch([*PICKLED, f"{PICKLED[0]}.index.json"])
            # Older folders of SetFit say so nowhere but by the head itself.
            if (path / SETFIT).is_file() or (path / MODULES).is_file():
                fetch([HEAD])
            if pickled := pickled_layers(path):
                fetch(pickled)
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

    def download(name: str) -> Path:
        return Path(from_hub(model, lambda: hf_hub_download(model, name, local_files_only=cached_only)))

    try:
        return download("config.json")
    except EntryNotFoundError as error:
        # An adapter has no config.json.
        for name in (MODULES, ADAPTER_CONFIG):
            with suppress(EntryNotFoundError):
                found = download(name)
                refuse_adapter(found.parent, model)
                return found
        raise error


def _check_length(config: Any, seq_len: int | None, model: str) -> None:
    # The number of positions of an image is fixed: `inputs.load.settle_seq_len` checks the option.
    longest = longest_input(config) if image_input(config) is None else None
    if seq_len is not None and longest is not None and seq_len > longest:
        raise ModelError(
            f"sequence length {seq_len} is beyond the {longest} positions of model '{model}'; "
            f"--seq-len must be at most {longest}"
        )


def _load_model(directory: Path, config: Any, task: Task, model: str) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Returns the model, and the weights of the checkpoint that are not part of it."""
    import torch
    import transformers
    from safetensors import SafetensorError

    loader = getattr(transformers, task.auto_class_name)
    try:
        with quiet():
            network, report = loader.from_pretrained(
                str(directory),
                config=config,
                dtype=torch.float32,
                # Left to choose, transformers takes what is installed.
                attn_implementation=_attention(loader, config),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                # The report names weights of other sizes: `check_names` refuses them.
                ignore_mismatched_sizes=True,
            )
    except (*_LOADING_ERRORS, SafetensorError) as error:
        raise ModelError(f"model '{model}' cannot be loaded: {one_line(error)}") from None
    left_out = check_names(network, report, model, task.name, task.unread_weights)
    check_finite(network, model)
    # The folder's place is nobody's business but the user's.
    network.config.name_or_path = ""
    if isinstance(task, (SentenceSimilarity, ClassifiedEmbedding)):
        # config.json may name a head that was left out; whoever reads the artifact builds this class.
        network.config.architectures = [type(network).__name__]
    network.requires_grad_(False)
    return network.eval(), left_out


def _attention(loader: Any, config: Any) -> str:
    """Returns the implementation of attention that needs nothing but torch."""
    kind = loader._model_mapping.get(type(config), None)
    kinds = kind if isinstance(kind, (tuple, list)) else (kind,)
    return "sdpa" if all(getattr(one, "_supports_sdpa", False) for one in kinds) else "eager"


def _try_to_save(network: Any, tokenizer: Any, model: str) -> None:
    """Raises ModelError if configuration or tokenizer cannot be written: the artifact needs both, at the end."""
    from transformers import AutoConfig

    with tempfile.TemporaryDirectory(prefix="compress-") as folder, quiet():
        try:
            network.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # The errors for a wrong value differ between releases of transformers and have no common base class.
        except Exception as error:
            raise ModelError(
                f"model '{model}' cannot be saved again: {one_line(error)}; load it and save it with save_pretrained, "
                "and mend what that complains of"
            ) from None
