"""The head of a SetFit folder: ``model_head.pkl``, a classifier of scikit-learn or of SetFit itself.

It is a pickle, so it may hold any program. Here it builds nothing but arrays, tensors and tables of attributes: every
class that it names has to be in a short list, and those of classifiers are replaced by a class without methods.
"""

from __future__ import annotations

import inspect
import io
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.core.errors import ModelError
from compress.data.text_files import first_line
from compress.tasks.classified_embedding import ClassifiedEmbedding
from compress.tasks.pooling import Dense
from compress.tasks.sentence_similarity import SentenceSimilarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD, SETTINGS = "model_head.pkl", "config_setfit.json"
# Whose attributes are read; none of these classes is imported.
_CLASSIFIERS = {
    ("sklearn.linear_model._logistic", "LogisticRegression"),
    ("sklearn.linear_model.logistic", "LogisticRegression"),
    ("setfit.modeling", "SetFitHead"),
    ("torch.nn.modules.linear", "Linear"),
}


class _Attributes:
    """A table of attributes, in the place of an object of any class."""

    kind = ""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


class _Refused(Exception):
    """The name of a class that no classifier needs."""


def has_head(root: Path) -> bool:
    """Returns whether a folder of sentence-transformers has a head of SetFit.

    Args:
        root: the folder.
    """
    return (root / HEAD).is_file()


def read_head(root: Path, encoder: SentenceSimilarity, config: Any, model: str) -> ClassifiedEmbedding:
    """Reads the head of a SetFit folder.

    Args:
        root: the folder.
        encoder: makes its embeddings.
        config: of the transformer, changed in place: it gets the names of the classes.
        model: the name that the user gave the folder, for messages.

    Returns:
        The task.

    Raises:
        ModelError: the head is of an unknown class, or does not fit the embeddings.
    """
    settings = _settings(root)
    found = _unpickled(root / HEAD, model)
    weight, bias, classes = _of_torch(found, model) if found.kind == "SetFitHead" else _of_sklearn(found, model)
    names = settings.get("labels")
    given = names if names and len(names) == len(weight) else classes
    labels = [str(label) for label in given]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    dimension = encoder.width(config.hidden_size)
    if weight.shape[1] != dimension:
        raise ModelError(
            f"the head of model '{model}' ({HEAD}) reads embeddings of {weight.shape[1]} numbers, its encoder gives "
            f"{dimension}; copy both from the same folder"
        )
    import torch

    head = Dense(torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(bias.astype(np.float32)), "Identity")
    if settings.get("normalize_embeddings"):
        encoder = replace(encoder, normalize=True)
    return ClassifiedEmbedding(encoder=encoder, head=head)


def _settings(root: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((root / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{root / SETTINGS}' cannot be read: {first_line(error)}; copy it again") from None
    return found if isinstance(found, dict) else {}


def _unpickled(file: Path, model: str) -> Any:
    """Returns the attributes of a classifier in a pickle of joblib."""
    try:
        from joblib.numpy_pickle import NumpyUnpickler
    except ImportError:
        raise ModelError(
            f"model '{model}' has a head of SetFit ({HEAD}), and joblib, which reads its arrays, is not installed: pip "
            "install 'compress[setfit]'; or --task sentence-similarity compresses the encoder alone"
        ) from None

    class Reader(NumpyUnpickler):
        dispatch = NumpyUnpickler.dispatch.copy()

        def find_class(self, module: str, name: str) -> Any:
            return _allowed(module, name)

    known = {"filename": str(file), "ensure_native_byte_order": True, "mmap_mode": None}
    accepted = inspect.signature(NumpyUnpickler.__init__).parameters
    try:
        with file.open("rb") as stream:
            options = {name: value for name, value in known.items() if name in accepted}
            found = Reader(file_handle=stream, **options).load()
    except _Refused as refused:
        raise ModelError(_unknown(model, str(refused))) from None
    # Whatever else is in the file, the reader fails somewhere: there is no class of errors for it.
    except Exception as error:
        raise ModelError(
            f"the head of model '{model}' ({file.name}) cannot be read: {first_line(error) or type(error).__name__}; "
            "copy it again, or give --task sentence-similarity to compress the encoder alone"
        ) from None
    if not isinstance(found, _Attributes):
        raise ModelError(_unknown(model, type(found).__name__))
    return found


def _unknown(model: str, kind: str) -> str:
    return (
        f"the head of model '{model}' ({HEAD}) is or names {kind}, which is not read: it would be run. Supported are "
        "LogisticRegression of scikit-learn and SetFit's own head; --task sentence-similarity compresses the encoder "
        "alone"
    )


def _allowed(module: str, name: str) -> Any:
    """Returns what a pickle may name; everything else is refused by its name."""
    if (module, name) in _CLASSIFIERS:
        return type(name, (_Attributes,), {"kind": name})
    found = _plain().get((module, name))
    if found is None:
        raise _Refused(f"{module}.{name}")
    return found


def _plain() -> dict[tuple[str, str], Any]:
    """Returns builders of arrays and tensors, which run nothing."""
    import torch
    from joblib.numpy_pickle import NumpyArrayWrapper
    from numpy._core import multiarray

    class PlainArray(NumpyArrayWrapper):
        def read_array(self, *arguments: Any) -> Any:
            # Releases of joblib before 1.6 read objects with a reader that runs what they name.
            if self.dtype.hasobject:
                raise _Refused("an array of objects")
            return super().read_array(*arguments)

    rebuild: Any = torch._utils
    arrays = {
        ("joblib.numpy_pickle", "NumpyArrayWrapper"): PlainArray,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        **{(f"numpy.{core}.multiarray", "scalar"): multiarray.scalar for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "_reconstruct"): multiarray._reconstruct for core in ("core", "_core")},
    }
    tensors = {
        ("collections", "OrderedDict"): OrderedDict,
        ("builtins", "set"): set,
        ("torch", "device"): torch.device,
        ("torch._utils", "_rebuild_parameter"): rebuild._rebuild_parameter,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild._rebuild_tensor_v2,
        ("torch.storage", "_load_from_bytes"): _storage,
    }
    return {**arrays, **tensors}


def _storage(content: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _of_sklearn(found: Any, model: str) -> tuple[NDArray[Any], NDArray[Any], list[Any]]:
    """Returns weight [classes, dimension], bias [classes] and the classes of a logistic regression."""
    state = vars(found)
    if found.kind != "LogisticRegression" or not {"coef_", "intercept_", "classes_"} <= set(state):
        raise ModelError(_unknown(model, f"{found.kind or 'an object'} that is not trained"))
    weight, classes = np.atleast_2d(state["coef_"]), list(np.asarray(state["classes_"]).tolist())
    bias = np.zeros(len(weight)) + state["intercept_"]
    if len(weight) == 1:
        # Two classes: the logit of the second, against 0.
        return np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros(1), bias]), classes
    if state.get("multi_class") == "ovr" or state.get("solver") == "liblinear":
        raise ModelError(
            _unknown(model, "a LogisticRegression of one class against the rest, whose probabilities are no softmax")
        )
    return weight, bias, classes


def _of_torch(found: Any, model: str) -> tuple[NDArray[Any], NDArray[Any], list[Any]]:
    """Returns weight [classes, dimension], bias [classes] and the classes of SetFit's own head."""
    state = vars(found)
    linear = state.get("_modules", {}).get("linear")
    parameters = vars(linear).get("_parameters", {}) if isinstance(linear, _Attributes) else {}
    if state.get("multitarget") or parameters.get("weight") is None:
        raise ModelError(_unknown(model, "a SetFitHead that gives several labels to one text, or is not trained"))
    weight = parameters["weight"].detach().float().numpy()
    bias = parameters.get("bias")
    offsets = np.zeros(len(weight)) if bias is None else bias.detach().float().numpy()
    if len(weight) == 1:
        weight, offsets = np.concatenate([0 * weight, weight]), np.concatenate([np.zeros(1), offsets])
    temperature = float(state.get("temperature", 1.0)) + float(state.get("eps", 0.0))
    return weight / temperature, offsets / temperature, list(range(len(weight)))
