"""Reads the files of sentence-transformers: which modules make an embedding, in which order, from which text.

``modules.json`` decides. Nothing of a checkpoint is executed: modules are recognised by name, and their weights are
read from safetensors, or from a pickle that may hold tensors alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from compress.core.errors import ConfigError, ModelError
from compress.data.text_files import first_line
from compress.inputs.embedding_layers import read_layer
from compress.inputs.prompts import choose_prompt, prompt_length
from compress.tasks import SentenceSimilarity
from compress.tasks.pooling import POOLINGS, Layer, Normalize
from compress.tasks.sentence_similarity import SIMILARITIES, EncoderNotes

if TYPE_CHECKING:
    from compress.tasks.sentence_similarity import Embedding

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
# In the order in which sentence-transformers looks for them.
TRANSFORMER_SETTINGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# What of these belongs to an encoder, for downloads: module folders are called 1_Pooling, 2_Dense, 0_Transformer.
PATTERNS = (MODULES, SETTINGS, "sentence_*_config.json", *(f"[0-9]_*/*{end}" for end in (".json", ".txt", ".model")))
PATTERNS += ("[0-9]_*/*.safetensors",)
_PACKAGE = "sentence_transformers."
# Releases before 2020 had a class per family.
_TRANSFORMERS = ("Transformer", *("BERT", "RoBERTa", "DistilBERT", "CamemBERT", "XLMRoBERTa", "ALBERT", "XLNet"))
_POOLED = "sentence_embedding"
_TOKENS_ALONE = "--embedding tokens compresses the transformer alone and leaves the rest to the caller"
_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Settings of a tokenizer in sentence_bert_config.json that change no text, or that are read here.
_HARMLESS = {"trust_remote_code", "local_files_only", "revision", "token", "cache_dir", "use_fast", "model_max_length"}


@dataclass(frozen=True)
class SentenceFolder:
    """A folder with ``modules.json`` whose first module is a transformer.

    Attributes:
        root: the folder.
        transformer: the folder of the transformer's config.json, weights and tokenizer; ``root`` in most.
        modules: type and folder of each further module.
        settings: config_sentence_transformers.json; empty without one.
        transformer_settings: sentence_bert_config.json of the transformer; empty without one.
    """

    root: Path
    transformer: Path
    modules: tuple[tuple[str, Path], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    transformer_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that a text is cut to; None takes the tokenizer's limit."""
        processor = self.transformer_settings.get("tokenizer_args") or self.transformer_settings.get("processor_kwargs")
        given = (processor or {}).get("model_max_length", self.transformer_settings.get("max_seq_length"))
        return None if given is None else _positive(given, "max_seq_length", self.transformer)

    @property
    def truncate(self) -> int | None:
        """Entries at the start of an embedding that are kept; None keeps all."""
        given = self.settings.get("truncate_dim")
        return None if given is None else _positive(given, "truncate_dim", self.root / SETTINGS)

    @property
    def lower_case(self) -> bool:
        """Whether texts are put into lower case."""
        return bool(self.transformer_settings.get("do_lower_case", False))


def find_sentence_folder(directory: Path) -> SentenceFolder | None:
    """Finds the files of sentence-transformers of a folder, or of the folder above if that one names it.

    Args:
        directory: what the user gave.

    Returns:
        The folder; None if there is none, or if its files are of another kind of model (a cross-encoder).

    Raises:
        ModelError: the files cannot be read, or the first module is not a transformer.
    """
    if (directory / MODULES).is_file():
        return _read_folder(directory)
    above = directory.parent
    if not (above / MODULES).is_file():
        if (lost := next(iter(sorted(directory.glob("[0-9]_Pooling"))), None)) is not None:
            raise ModelError(
                f"'{directory}' has {lost.name} but no {MODULES}, which says what makes an embedding; copy it from the "
                "checkpoint"
            )
        return None
    try:
        listed = [PurePosixPath(module["path"]) for module in _read_json(above / MODULES)]
    except (TypeError, KeyError):
        return None
    return _read_folder(above) if PurePosixPath(directory.name) in listed[:1] else None


def keep_activation(directory: Path, config: Any) -> None:
    """Writes a cross-encoder's activation function where every release of sentence-transformers looks for it.

    Newer releases keep it in config_sentence_transformers.json, which an artifact of another task does not have.

    Args:
        directory: the model folder.
        config: its configuration, changed in place.
    """
    settings = _read_object(directory / SETTINGS)
    activation = settings.get("activation_fn")
    if settings.get("model_type") == "CrossEncoder" and isinstance(activation, str):
        known = getattr(config, "sentence_transformers", None) or {}
        config.sentence_transformers = {"activation_fn": activation, **known}


def pickled_layers(root: Path) -> list[str]:
    """Returns the names of the files, below ``root``, of layers that have no safetensors: older Dense layers."""
    folders = [folder for folder in root.glob("[0-9]_*") if folder.name.endswith(("Dense", "LayerNorm"))]
    return [f"{folder.name}/pytorch_model.bin" for folder in folders if not any(folder.glob("*.safetensors"))]


def _read_folder(root: Path) -> SentenceFolder | None:
    file = root / MODULES
    settings = _read_object(root / SETTINGS)
    kind = settings.get("model_type") or "SentenceTransformer"
    if kind == "CrossEncoder":
        return None  # its head is in config.json
    try:
        listed = [(str(module["type"]), str(module["path"])) for module in _read_json(file)]
        folders = [_inside(root, path) for _, path in listed]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"'{file}' does not say how embeddings are made: {error!r}") from None
    if kind != "SentenceTransformer":
        names = ", ".join(name.rsplit(".", 1)[-1] for name, _ in listed)
        raise ModelError(f"'{root / SETTINGS}' says {kind} ({names}), which is not supported: only SentenceTransformer")
    if not listed:
        raise ModelError(f"'{file}' does not say how embeddings are made: it lists no modules")
    if _short(listed[0][0]) not in _TRANSFORMERS:
        raise ModelError(
            f"'{file}' begins with {_short(listed[0][0])}, which is not a transformer and cannot be compressed; give "
            "the folder of a transformer, if it has one"
        )
    if not (folders[0] / "config.json").is_file():
        raise ModelError(f"'{file}' says that the transformer is in '{folders[0]}', which has no config.json")
    further = tuple((kind, folder) for (kind, _), folder in zip(listed[1:], folders[1:], strict=True))
    found = next((folders[0] / name for name in TRANSFORMER_SETTINGS if (folders[0] / name).is_file()), None)
    own = {} if found is None else _read_object(found)
    _check_transformer(own, found)
    return SentenceFolder(root, folders[0], further, settings, own)


def _inside(root: Path, path: str) -> Path:
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts or "\\" in path:
        raise ValueError(f"the path '{path}' leads out of the folder")
    return root / relative


def _check_transformer(settings: Mapping[str, Any], file: Path | None) -> None:
    """Raises ModelError where the transformer's settings ask for something else than its last hidden state."""
    for key in ("modality_config", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"):
        if not isinstance(settings.get(key) or {}, dict):
            raise ModelError(f"'{file}' has {key} {settings[key]!r}, not an object; copy it from the checkpoint")
    task = settings.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ModelError(f"'{file}' asks for transformer_task {task}, which is not supported: only feature-extraction")
    text = (settings.get("modality_config") or {}).get("text") or {}
    text = text if isinstance(text, dict) else {"method": text}
    output = text.get("method_output_name", "last_hidden_state")
    if text.get("method", "forward") != "forward" or output != "last_hidden_state":
        raise ModelError(f"'{file}' reads {output} of the transformer, which is not supported: only last_hidden_state")
    output = settings.get("module_output_name", "token_embeddings")
    if output != "token_embeddings":
        raise ModelError(f"'{file}' makes {output} of the transformer, which is not supported: only token_embeddings")
    if settings.get("processing_kwargs"):
        raise ModelError(
            f"'{file}' has processing_kwargs {json.dumps(settings['processing_kwargs'])}, which are not read here; "
            "write them into tokenizer_config.json instead"
        )
    for key in ("tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"):
        further = {name: value for name, value in (settings.get(key) or {}).items() if name not in _HARMLESS}
        if further:
            raise ModelError(
                f"'{file}' has {key} {json.dumps(further)}, which are not read here; write them into "
                f"{'tokenizer_config.json' if key in ('tokenizer_args', 'processor_kwargs') else 'config.json'} instead"
            )


def sentence_task(
    folder: SentenceFolder | None, embedding: Embedding | None, prompt: str | None, tokenizer: Any
) -> tuple[SentenceSimilarity, list[str]]:
    """Makes the task of a sentence encoder from its files.

    Args:
        folder: its files; None without any.
        embedding: as the user asked for; None takes what the files say.
        prompt: the name of a prompt, ``none`` for no prompt, None for the default one.
        tokenizer: the checkpoint's tokenizer.

    Returns:
        The task, and sentences for the user: what is assumed, which prompt is used.

    Raises:
        ModelError: a module is not supported.
        ConfigError: there is no such prompt.
    """
    if folder is None:
        if prompt not in (None, "none"):
            raise ConfigError(f"there is no prompt '{prompt}': the model has no {SETTINGS} beside it")
        task = SentenceSimilarity()
        return (task if embedding is None else _giving(task, embedding)), [
            f"there is no {MODULES} beside the model: mean pooling is assumed, normalised"
        ]
    said: list[str] = []
    complete, include_prompt = True, True
    try:
        modes, include_prompt, layers = _read_modules(folder)
    except _Unsupported as error:
        if embedding != "tokens":
            raise ModelError(f"{error}; {_TOKENS_ALONE}") from None
        complete, modes, layers = False, ("mean",), [Normalize()]
        said.append(f"{error}: only the transformer is compressed, and measured with mean pooling, normalised")
    normalize = bool(layers) and isinstance(layers[-1], Normalize)
    similarity = _similarity(folder)
    if similarity != "cosine":
        said.append(f"texts are compared by '{similarity}' (similarity_fn_name in {SETTINGS}), not by cosine")
    name, text, lines = choose_prompt(folder.settings, folder.root / SETTINGS, prompt)
    said += lines
    task = SentenceSimilarity(
        pooling="+".join(modes),
        normalize=normalize,
        embedding="normalized" if normalize else "pooled",
        layers=tuple(layers[:-1] if normalize else layers),
        truncate=folder.truncate,
        prompt=text,
        similarity=similarity,
        prompt_tokens=0 if include_prompt or not text else prompt_length(text, tokenizer),
        notes=EncoderNotes(
            complete=complete,
            described=json.dumps(dict(folder.settings)),
            prompt_name=name,
            include_prompt=include_prompt,
            lower_case=folder.lower_case,
            max_seq_length=folder.max_seq_length,
        ),
    )
    if task.prompt_tokens:
        said.append(
            f"the {task.prompt_tokens} tokens of the prompt are not pooled (include_prompt in the pooling's "
            "config.json): the exported file leaves out so many at the start of every text"
        )
    return (task if embedding is None else _giving(task, embedding)), said


def _giving(task: SentenceSimilarity, embedding: Embedding) -> SentenceSimilarity:
    return task if embedding == task.embedding else task.giving(embedding)


class _Unsupported(Exception):
    """A module that cannot be computed here."""


def _read_modules(folder: SentenceFolder) -> tuple[tuple[str, ...], bool, list[Layer]]:
    """Reads the modules after the transformer: pooling, whether a prompt is pooled, layers in order."""
    file = folder.root / MODULES
    modes: tuple[str, ...] | None = None
    include_prompt = True
    layers: list[Layer] = []
    for kind, path in folder.modules:
        name = _short(kind)
        if name == "Pooling" and modes is None:
            modes, include_prompt = _read_pooling(path / "config.json")
            continue
        if name not in ("Dense", "Normalize", "LayerNorm", "Dropout"):
            raise _Unsupported(f"'{file}' has {'a second ' * (name == 'Pooling')}{name}, which is not supported")
        notes = _read_object(path / "config.json")
        place = notes.get("module_input_name", _POOLED)
        if modes is None or place != _POOLED or (notes.get("module_output_name") or place) != _POOLED:
            raise _Unsupported(f"'{file}' has {name} on tokens, before pooling, which is not supported")
        if name == "Normalize":
            layers.append(Normalize())
        elif name != "Dropout":  # which does nothing once a model is trained
            layers.append(read_layer(name, path, notes))
    if modes is None:
        raise _Unsupported(f"'{file}' has no Pooling, so it does not give one embedding per text")
    return modes, include_prompt, layers


def _short(kind: str) -> str:
    """Name of a module of sentence-transformers; the whole name of any other, which may share the short one."""
    return kind.rsplit(".", 1)[-1] if kind.startswith(_PACKAGE) else kind


def _read_pooling(file: Path) -> tuple[tuple[str, ...], bool]:
    if not file.is_file():
        raise ModelError(f"'{file}' is missing: it says how embeddings are pooled; copy it from the checkpoint")
    notes = _read_object(file)
    named = notes.get("pooling_mode")
    if named is None:
        chosen = tuple(mode for key, mode in _LEGACY_POOLINGS.items() if notes.get(key)) or ("mean",)
    else:
        chosen = tuple(map(str, named)) if isinstance(named, list) else (str(named),)
    unknown = [str(mode) for mode in chosen if mode not in POOLINGS]
    # Older releases had no other keys than these, so an unknown one is another way of pooling.
    unknown += [
        key for key, on in notes.items() if key.startswith("pooling_mode_") and on and key not in _LEGACY_POOLINGS
    ]
    if unknown or not chosen:
        raise _Unsupported(
            f"'{file}' asks for pooling {', '.join(unknown) or 'of no kind'}; supported are {', '.join(POOLINGS)}"
        )
    return chosen, bool(notes.get("include_prompt", True))


def _similarity(folder: SentenceFolder) -> str:
    name = folder.settings.get("similarity_fn_name") or "cosine"
    if name not in SIMILARITIES:
        raise ModelError(
            f"'{folder.root / SETTINGS}' compares texts by {name!r} (similarity_fn_name), which is not supported; "
            f"supported are {', '.join(SIMILARITIES)}"
        )
    return str(name)


def _positive(value: Any, name: str, place: Path) -> int:
    """Returns a number of tokens or entries from a settings file."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ModelError(f"'{place}' has {name} {value!r}; write a number from 1, or null for no limit")
    return number


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{file}' does not say how embeddings are made: {first_line(error)}") from None


def _read_object(file: Path) -> dict[str, Any]:
    """Reads a JSON object; empty without the file."""
    if not file.is_file():
        return {}
    found = _read_json(file)
    if not isinstance(found, dict):
        raise ModelError(f"'{file}' is not a JSON object; copy it from the checkpoint")
    return found
