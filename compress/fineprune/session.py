"""Training of one run: the phases of a recipe where PyTorch computes, with their checkpoints.

With several processes, a call on the first one starts the phase on all of them: the others receive its inputs in
``follow``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compress.core.errors import ArtifactError
from compress.core.plan import Structure
from compress.core.trace import span
from compress.data.batches import Encoded
from compress.distributed.group import Group
from compress.fineprune.checkpoints import Checkpoints
from compress.fineprune.distill import Teaching
from compress.fineprune.fake_quant import Rounding
from compress.fineprune.mask_protocol import Mask
from compress.fineprune.masking import Choose, Masking, Settle, fold, masking_schedule
from compress.fineprune.parallel import mean_loss
from compress.fineprune.phase import Execution, Phase, PhaseSpec, phase_of, steps_of
from compress.fineprune.prepared import Prepared
from compress.fineprune.projection import masks_of, unit_costs
from compress.fineprune.recipe import Rates, ScoredRates
from compress.fineprune.train import Trainer
from compress.fineprune.unit_scores import UnitImportance, Units, scorer_of
from compress.inputs.checkpoint import Checkpoint
from compress.models.encoder import Encoder, encoder_of
from compress.pruning.removal import remove
from compress.reconstruction.layerwise import positions_read
from compress.search.costs import Costs


class TrainingSession:
    """The phases of a recipe, one after the other.

    Args:
        dense: the dense model, and its task.
        prepared: recipe, teacher and examples.
        seed: of every random choice.
        checkpoints: where checkpoints are kept; None keeps none.
        tell: given one line at each evaluation.
        group: processes that train together; None is this one alone.
        device: where PyTorch computes; None is the processor.

    Attributes:
        device: where PyTorch computes.
        phases: phases that have ended, by name; those of an interrupted run first.

    Raises:
        ArtifactError: the checkpoint is damaged, or of another run.
    """

    def __init__(
        self,
        dense: Checkpoint,
        prepared: Prepared,
        *,
        seed: int = 0,
        checkpoints: Checkpoints | None = None,
        tell: Callable[[str], None] = lambda _: None,
        group: Group | None = None,
        device: torch.device | None = None,
    ) -> None:
        # The processes of the current phase; a phase that is not shared runs on the first process alone.
        self._group, self._together = group or Group(), Group()
        self._dense, self._recipe = dense, prepared.recipe
        self._train, self._held = prepared.train, prepared.held
        self._seed, self._tell, self._checkpoints = seed, tell, checkpoints
        self.device = device or torch.device("cpu")
        self._teacher = self._placed(prepared.teacher or dense) if self._recipe.taught else None
        self._resume = None if checkpoints is None else checkpoints.load()
        self.phases: list[tuple[str, Phase]] = []
        if self._resume is not None:
            self.phases = [(name, phase_of(facts)) for name, facts in self._resume[0].get("done", [])]

    def _placed(self, teacher: Checkpoint) -> Encoder:
        if self.device.type == "cpu":
            return teacher.encoder
        return encoder_of(copy.deepcopy(teacher.model).to(self.device))

    @property
    def examples(self) -> Encoded:
        """The examples that are trained on."""
        return self._train

    @property
    def resuming(self) -> bool:
        """Whether training continues from a checkpoint."""
        return self._resume is not None

    @property
    def resumed_phase(self) -> str | None:
        """The phase that continues from a checkpoint; None without one."""
        return None if self._resume is None else str(self._resume[0]["phase"])

    def resumed_structure(self) -> Structure | None:
        """The final structure in the checkpoint; None without a checkpoint, or where the structure still changes."""
        if self._resume is None or self.resumed_phase == "structure":
            return None
        heads, filters = self._resume[0]["kept"]
        return Structure(tuple(map(tuple, heads)), tuple(map(tuple, filters)))

    def find_structure(
        self, costs: Costs, start: UnitImportance, settle: Settle | None = None
    ) -> tuple[Any, Masking, Phase]:
        """Train the dense model under gates while the budget falls to the costs' limit.

        Args:
            costs: of widths.
            start: importance of every unit in the search, [layers, units] each.
            settle: decides the final structure when the mask freezes, on the first process; None takes what the scores
                choose within the costs' limit.

        Returns:
            The trained model, its masking (with the structure), and the phase's result.
        """
        numbers = {"heads": costs.heads, "filters": costs.filters, "fixed": costs.fixed, "limit": costs.limit}
        arrays = {"head_cost": costs.head_cost, "filter_cost": costs.filter_cost, "0": start[0], "1": start[1]}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        with self._begun("structure", {"costs": numbers}, tensors):
            return self._structure(costs, start, settle)

    def _structure(self, costs: Costs, start: UnitImportance, settle: Settle | None) -> tuple[Any, Masking, Phase]:
        rates = self._recipe.structure
        assert rates is not None
        model = copy.deepcopy(self._dense.model).to(self.device)
        encoder = encoder_of(model)
        steps = steps_of(rates, len(self._train))
        schedule = masking_schedule(costs, encoder.shape.layers, steps, rates.first, rates.last)
        scorer = scorer_of(rates, encoder, start, unit_costs(costs), self._seed)
        agreed = partial(_agreed, settle or partial(_as_chosen, limit=schedule.end), self._together)
        masking = Masking(encoder, scorer, costs, schedule, rates.project_every, agreed)
        phase = self.train_masked("structure", model, rates, masking)
        masking.conclude(steps)
        return model, masking, phase

    def train_masked(self, name: str, model: Any, rates: ScoredRates, masking: Mask) -> Phase:
        """Train a model under a mask; continues from a checkpoint of a phase of this name.

        Args:
            name: of the phase.
            model: on the session's device; changed in place.
            rates: of the phase.
            masking: chooses what stays.

        Raises:
            TrainingError: training diverges.
        """
        return self._run(name, encoder_of(model), rates, masking)

    def carry_out(self, model: Any, masking: Masking) -> Any:
        """Multiply the gates into a trained model's weights and remove the units that the structure does not keep.

        Args:
            model: trained under gates; changed in place.
            masking: its masking, frozen.

        Returns:
            The pruned model, on the processor.
        """
        encoder, structure = encoder_of(model), masking.structure
        masks = masks_of(structure, encoder.shape)
        kept = Units(*(torch.from_numpy(mask).float().to(self.device) for mask in masks))
        fold(encoder, masking.scorer.gates(kept, training=False))
        model.cpu()
        remove(model, structure)
        return model

    def held_loss(self, model: Any) -> float:
        """Mean loss of a model without gates on the examples held out, as in the log; by this process alone."""
        outputs_alone = self._recipe.distillation.model_copy(update={"hidden": 0.0})
        encoder = encoder_of(model.to(self.device))
        loss = mean_loss(Teaching(outputs_alone, self._dense.task, encoder, self._teacher), model, self._held, Group())
        model.cpu()
        return loss

    def train_weights(self, model: Any | None, structure: Structure) -> tuple[Any, Phase]:
        """Train a pruned model; its structure stays.

        Args:
            model: pruned to the structure; None where a checkpoint has its weights.
            structure: the units that it keeps.

        Returns:
            The trained model, on the session's device, and the phase's result.

        Raises:
            TrainingError: training diverges.
        """
        tensors = {} if model is None else dict(model.state_dict())
        with self._begun("weights", {"kept": [structure.heads, structure.filters]}, tensors):
            return self._weights(model, structure)

    def _weights(self, model: Any | None, structure: Structure) -> tuple[Any, Phase]:
        rates = self._recipe.weights
        assert rates is not None
        return self._train_pruned("weights", rates, self._pruned(structure) if model is None else model, structure, {})

    def train_quantized(self, model: Any | None, structure: Structure, rounding: Rounding) -> tuple[Any, Phase]:
        """Train a pruned model whose weights and activations are rounded as those of its int8 file.

        The losses on held-out examples are those of the rounded model; the model that is returned is not rounded.

        Args:
            model: see ``train_weights``.
            structure: see ``train_weights``.
            rounding: of the file.

        Returns:
            The trained model and the phase's result, as from ``train_weights``.

        Raises:
            ArtifactError: the checkpoint was trained with another rounding.
            TrainingError: training diverges.
        """
        rates = self._recipe.quantization
        assert rates is not None
        model = self._pruned(structure) if model is None else model
        rounded = [rounding.engine.reduce_range, sorted(rounding.linear(model))]
        if self._resume is not None and self.resumed_phase == "quantization" and self._resume[0]["rounded"] != rounded:
            raise ArtifactError(
                "the checkpoint was trained with other layers in int8 than this run's file has; choose another "
                "--checkpoints, or remove it"
            )
        with rounding.on(model):
            return self._train_pruned("quantization", rates, model, structure, {"rounded": rounded})

    def _pruned(self, structure: Structure) -> Any:
        model = copy.deepcopy(self._dense.model)
        remove(model, structure)
        return model

    @contextmanager
    def _begun(self, phase: str, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[None]:
        """Start a phase on all processes, from its beginning or from its checkpoint."""
        if self._group.world == 1:
            yield
            return
        state, values = (None, {}) if self._resume is None or self.resumed_phase != phase else self._resume
        boxes = {"given": tensors, "state": values}
        everything = {f"{box}.{name}": tensor for box, parts in boxes.items() for name, tensor in parts.items()}
        with self._group.busy():
            self._group.share({"task": phase, "state": state, **facts}, everything)
            self._together = self._group
            yield
            self._together = Group()

    def follow(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take part in a phase that the first process has started.

        Args:
            facts: the phase's name and inputs, as the first process shared them.
            tensors: the same of its tensors.
        """
        given, values = (
            {name.removeprefix(box): tensor for name, tensor in tensors.items() if name.startswith(box)}
            for box in ("given.", "state.")
        )
        self._resume = None if facts["state"] is None else (facts["state"], values)
        self._together = self._group
        if facts["task"] == "structure":
            numbers = facts["costs"]
            costs = Costs(
                heads=tuple(numbers["heads"]),
                head_cost=given["head_cost"].numpy(),
                filters=tuple(numbers["filters"]),
                filter_cost=given["filter_cost"].numpy(),
                fixed=numbers["fixed"],
                limit=numbers["limit"],
            )
            self._structure(costs, (given["0"].numpy(), given["1"].numpy()), None)
            return
        heads, filters = (tuple(map(tuple, units)) for units in facts["kept"])
        structure = Structure(heads, filters)
        model = self._pruned(structure)
        if given:
            model.load_state_dict(given)
        self._weights(model, structure)

    def _train_pruned(
        self, name: str, rates: Rates, model: Any, structure: Structure, facts: dict[str, Any]
    ) -> tuple[Any, Phase]:
        model.to(self.device)
        facts = {"kept": [structure.heads, structure.filters], **facts}
        return model, self._run(name, encoder_of(model), rates, None, facts)

    def _run(
        self,
        name: str,
        encoder: Encoder,
        rates: Rates,
        masking: Mask | None,
        facts: dict[str, Any] | None = None,
    ) -> Phase:
        """Run a phase, from its beginning or from its checkpoint."""
        task, watching = self._dense.task, self._recipe.validation
        read = positions_read(self._dense.encoder, task, self._train) if self._recipe.distillation.hidden else None
        teaching = Teaching(self._recipe.distillation, task, encoder, self._teacher, read)
        try:
            done = [[ended, asdict(phase)] for ended, phase in self.phases]
            spec = PhaseSpec(
                name, rates, watching.times, watching.patience, self._seed, {"done": done, **(facts or {})}
            )
            execution = Execution(self._recipe.precision, self._together, self._checkpoints, self._tell)
            trainer = Trainer(spec, encoder, teaching, self._train, self._held, execution, masking)
            with span(name):
                phase = trainer.run(self._resume if self.resumed_phase == name else None)
        finally:
            teaching.close()
        self.phases.append((name, phase))
        return phase


def _as_chosen(choose: Choose, *, limit: float) -> tuple[Structure, float]:
    return choose(limit), limit


def _agreed(settle: Settle, group: Group, choose: Choose) -> tuple[Structure, float]:
    """The first process's decision, on all of them."""
    facts: dict[str, Any] = {}
    if group.first:
        structure, limit = settle(choose)
        facts = {"kept": [structure.heads, structure.filters], "limit": limit}
    facts, _ = group.share(facts)
    heads, filters = (tuple(map(tuple, units)) for units in facts["kept"])
    return Structure(heads, filters), facts["limit"]
