"""Recipes: TOML files with the phases, rates and losses of a training.

A recipe has at most three phases. ``[structure]`` trains weights under gates while the budget falls from the dense
model's cost to the one asked for; without that table the structure from the search stays. ``[weights]`` trains the
pruned model. ``[quantization]`` continues with weights and activations rounded as in the int8 file; it is skipped if
the file is not int8. A recipe for ``--unstructured`` has the single phase ``[unstructured]``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.core.errors import ConfigError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parents[1] / "configs" / "recipes"

ScorerName = Literal["movement", "soft-movement", "magnitude", "l0", "fisher", "random"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Rates(_Table):
    """How a phase trains.

    Attributes:
        epochs: passes over the training examples; parts of one are fine.
        batch_size: examples per step, over all processes and accumulated parts together.
        accumulate: parts that a step is computed in, one after another; more take less memory.
        learning_rate: of the weights, at its peak.
        warm_up: part of the steps in which the rate rises; afterwards it falls linearly to zero.
        weight_decay: of AdamW.
        clip: largest norm of the weights' gradient.
        dropout: whether the model's dropout is on.
    """

    epochs: float = Field(gt=0, allow_inf_nan=False)
    batch_size: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=3e-5, gt=0, allow_inf_nan=False)
    warm_up: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    dropout: bool = True

    @model_validator(mode="after")
    def _parts(self) -> Rates:
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate {self.accumulate} is more than batch_size {self.batch_size}")
        return self


class ScoredRates(Rates):
    """A phase in which scores decide what stays, while the budget falls.

    Attributes:
        score_learning_rate: of trained scores.
        score_clip: largest norm of the scores' gradient.
        first: part of the steps before the budget begins to fall.
        last: part of the steps with the final budget; the mask is frozen there.
        project_every: steps between projections on the budget.
        penalty: λ of soft movement's penalty, λ times the mean sigmoid of the scores; for L0, the rate at which the
            multipliers of its Lagrangian grow.
    """

    score_learning_rate: float = Field(default=1e-2, gt=0, allow_inf_nan=False)
    score_clip: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    first: float = Field(default=0.05, ge=0, lt=1)
    last: float = Field(default=0.3, ge=0, lt=1)
    project_every: int = Field(default=20, ge=1)
    penalty: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _room(self) -> ScoredRates:
        if self.first + self.last >= 1:
            raise ValueError(
                f"first {self.first:g} and last {self.last:g} leave no steps in which the budget could fall to the one "
                "asked for; together they must be below 1"
            )
        return self


class StructureRecipe(ScoredRates):
    """The phase that finds the structure.

    Attributes:
        scorer: decides which units stay.
        start: scores begin with the search's importance (``search``), or all equal (``zero``).
    """

    scorer: ScorerName = "movement"
    start: Literal["search", "zero"] = "search"


class UnstructuredRecipe(ScoredRates):
    """The phase in which single weights are masked (``--unstructured``); ``project_every`` is steps between choices.

    Attributes:
        epochs: with 0 there is no training: one choice, at once.
        scorer: decides which weights stay.
        selection: the best of all matrices together (``global``), or the same fraction of each (``per-matrix``).
        start: trained scores begin all equal (``zero``, the paper's), with the weights' magnitude, or with their Fisher
            information times their square (``fisher``).
        start_examples: examples for that Fisher information.
    """

    epochs: float = Field(ge=0, allow_inf_nan=False)
    scorer: Literal["movement", "soft-movement", "magnitude", "l0"] = "movement"
    selection: Literal["global", "per-matrix"] = "global"
    start: Literal["zero", "magnitude", "fisher"] = "fisher"
    start_examples: int = Field(default=1024, ge=1)
    project_every: int = Field(default=10, ge=1)

    @property
    def trains(self) -> bool:
        """Whether the phase has any steps."""
        return self.epochs > 0

    @model_validator(mode="after")
    def _trained(self) -> UnstructuredRecipe:
        if not self.trains and self.scorer != "magnitude":
            raise ValueError(f"scorer '{self.scorer}' learns in training: give epochs above 0, or take 'magnitude'")
        return self


class Distilling(_Table):
    """Weights of the losses.

    Attributes:
        weight: of the divergence from the teacher's outputs; the rest of 1 is the weight of the task loss on labels.
            Without labels the divergence alone counts.
        temperature: outputs are divided by it in the divergence.
        hidden: weight of the distance of hidden states from the teacher's.
    """

    weight: float = Field(default=0.9, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    hidden: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class Watching(_Table):
    """Evaluation during training.

    Attributes:
        held_out: part of the training examples that is not trained on.
        most: largest number of examples held out.
        times: evaluations per phase on them, evenly spaced.
        patience: evaluations without a better one before a phase with a fixed structure stops; 0 never.
    """

    held_out: float = Field(default=0.05, gt=0, lt=0.5)
    most: int = Field(default=1000, ge=1)
    times: int = Field(default=8, ge=1)
    patience: int = Field(default=0, ge=0)


class Recipe(_Table):
    """A recipe.

    Attributes:
        name: the shipped recipe's, or the file's.
        description: one line for people.
        source: where its numbers come from; None for our own measurements.
        examples: largest number of training examples, drawn at random; None for all.
        seq_len: tokens per training example; None for the deployment's.
        precision: mixed precision of the training; ``no`` is float32.
        structure, weights, quantization, unstructured, distillation, validation: the tables.
    """

    name: str
    description: str
    source: str | None = None
    examples: int | None = Field(default=None, ge=1)
    seq_len: int | None = Field(default=None, ge=8)
    precision: Literal["no", "bf16"] = "no"
    structure: StructureRecipe | None = None
    weights: Rates | None = None
    quantization: Rates | None = None
    unstructured: UnstructuredRecipe | None = None
    distillation: Distilling = Distilling()
    validation: Watching = Watching()

    @model_validator(mode="after")
    def _something(self) -> Recipe:
        others = [name for name in ("structure", "weights", "quantization") if getattr(self, name) is not None]
        if self.unstructured is None and self.structure is None and self.weights is None:
            raise ValueError(
                "there is nothing to train: give a table [structure], [weights] or both, or [unstructured]"
            )
        if self.unstructured is not None and others:
            raise ValueError(f"[unstructured] goes alone: leave out [{others[0]}], or [unstructured]")
        return self

    @property
    def taught(self) -> bool:
        """Whether a teacher is needed."""
        return self.distillation.weight > 0 or self.distillation.hidden > 0


def shipped() -> dict[str, Path]:
    """Names and files of the recipes that come with this package."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


def load_recipe(name: str) -> Recipe:
    """Read a recipe.

    Args:
        name: of a shipped recipe, or path of a TOML file.

    Raises:
        ConfigError: it does not exist, or it is wrong; the message says where.
    """
    known = shipped()
    path = Path(name).expanduser() if name.endswith(".toml") else known.get(name)
    if path is None:
        raise ConfigError(
            f"there is no recipe '{name}'.{did_you_mean(name, list(known))} Shipped: {', '.join(known)}; a recipe of "
            "your own is a path ending in .toml"
        )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read recipe '{path}': {error}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"recipe '{path}' is not valid TOML: {error}") from None
    try:
        return Recipe.model_validate({"name": path.stem, "description": "", **raw})
    except ValidationError as error:
        raise ConfigError(f"recipe '{path}': {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    parts = []
    for problem in error.errors(include_url=False):
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            parts.append(f"unknown key '{place}'")
            continue
        what = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
        shown = "" if isinstance(problem["input"], dict | BaseModel) else f", got {problem['input']!r}"
        parts.append(f"{place} {what}{shown}".strip())
    return "; ".join(parts)
