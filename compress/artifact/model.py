"""The PyTorch part of an artifact, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact.files import PYTORCH as PYTORCH
from compress.core.errors import ArtifactError, ModelError, PlanError
from compress.inputs.configuration import registered_class
from compress.inputs.torch_state import own_torch_state

if TYPE_CHECKING:
    from torch import Tensor

    from compress.core.plan import Structure

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_model(model: Any, directory: str | Path) -> None:
    """Write the PyTorch part of an artifact: ``pytorch/model.safetensors`` and ``pytorch/config.json``.

    The configuration describes the dense model; the widths are the business of ``plan.json``.

    Args:
        model: a transformers model, dense or pruned. Floating-point weights are stored as float32.
        directory: of the artifact; made when missing.

    Raises:
        ArtifactError: the files cannot be written.
    """
    import copy

    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(directory) / PYTORCH
    tensors = tensors_of(model)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
        config.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"cannot write the model to '{folder}': {error}; free some space or choose another --output"
        ) from error


def save_padded(model: Any, structure: Structure, directory: Path) -> None:
    """Write ``model.safetensors`` and ``config.json`` of one width into an artifact: transformers loads them by itself.

    Args:
        model: pruned to ``structure``.
        structure: its heads and filters, as indices into the dense layers.
        directory: of the artifact.

    Raises:
        PlanError: the family has no configuration for the pruned model's biases.
    """
    from compress.pruning.padding import padded

    padded(model, structure).save_pretrained(directory)


def tensors_of(model: Any) -> dict[str, Tensor]:
    """A model's weights and buffers as they are stored: floating-point ones as float32, none of them sharing memory."""
    import torch

    tensors: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, value in model.state_dict().items():
        tensor = value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype).contiguous()
        # safetensors refuses tensors that share memory; tied weights are written once for each of their names.
        tensors[name] = tensor.clone() if tensor.data_ptr() in written else tensor
        written.add(tensor.data_ptr())
    return tensors


@own_torch_state()
def load(artifact: str | Path) -> Any:
    """Load the PyTorch model of an artifact: an ordinary transformers model, pruned, in eval mode.

    Args:
        artifact: directory that ``compress run`` or ``compress export`` wrote.

    Returns:
        The model, float32, of the class that the original checkpoint had.

    Raises:
        ArtifactError: the directory is not an artifact, or its files are damaged or do not fit together.
        PlanError: its ``plan.json`` is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from compress.core.plan import Plan
    from compress.models.encoder import shape_of
    from compress.pruning.removal import narrow_to

    root = Path(artifact)
    files = (f"{PYTORCH}/{CONFIG}", f"{PYTORCH}/{WEIGHTS}", "plan.json")
    missing = [name for name in files if not (root / name).is_file()]
    if missing:
        state = "has no " + ", no ".join(missing) if root.is_dir() else "is not a directory"
        raise ArtifactError(f"'{root}' {state}; give a directory that `compress run` wrote")
    plan = Plan.read(root)
    model = dense_model(root / PYTORCH)
    try:
        shape = shape_of(model.config)
        if shape != plan.shape:
            raise ArtifactError(f"'{root}' is damaged: its plan is for {plan.shape}, its model is {shape}")
        narrow_to(model, plan.structure.widths)
        model.load_state_dict(load_file(str(root / PYTORCH / WEIGHTS)), strict=True)
    except (OSError, SafetensorError, RuntimeError, ModelError, PlanError) as error:
        # load_state_dict reports keys and shapes that do not fit as a RuntimeError.
        raise ArtifactError(f"'{root}' is damaged: {error}; make it again with `compress run`") from None
    return model.eval()


def dense_model(folder: Path) -> Any:
    """A model of the class and configuration in a directory, its weights not loaded.

    Raises:
        ArtifactError: the configuration cannot be read, or is of no model that transformers has.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ArtifactError(f"cannot read '{folder / CONFIG}': {error}; make the artifact again") from None
    name = (config.architectures or ["nothing"])[0]
    # The name comes from a file: only model classes that transformers has, or was told of, are made from it.
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    kind = kind or registered_class(name, type(config))
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ArtifactError(
            f"'{folder / CONFIG}' names the model class '{name}', which transformers {transformers.__version__} lacks"
        )
    try:
        return kind(config)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ArtifactError(f"'{folder / CONFIG}' describes no {name}: {error}; make the artifact again") from None
