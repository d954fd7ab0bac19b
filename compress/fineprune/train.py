"""The training loop: one phase of a recipe, on one process or several, interrupted or not.

Everything random is a function of the seed and the step. So a phase that is resumed from a checkpoint ends, bit for
bit, with the same weights as one that was not interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compress.core.errors import TrainingError
from compress.core.oom import out_of_memory
from compress.data.batches import Batch, Encoded
from compress.fineprune.checkpoints import fill_optimizer, optimizer_tensors
from compress.fineprune.distill import Losses, Teaching
from compress.fineprune.mask_protocol import Mask
from compress.fineprune.parallel import Feeder, autocast, combine, mean_loss
from compress.fineprune.phase import Execution, Phase, PhaseSpec, Row, steps_of
from compress.fineprune.recipe import ScoredRates
from compress.models.encoder import Encoder
from compress.reconstruction.joint import trained_parameters

if TYPE_CHECKING:
    pass

# A loss above this many times the mean of the first hundred steps, or one that is not finite, is divergence.
DIVERGED = 10.0
_SETTLED = 100


def rate_at(step: int, steps: int, warm_up: float) -> float:
    """Factor of the learning rate at a step, 0..1: a linear rise, then a linear fall to zero.

    Args:
        step: of the phase, 0 being the first.
        steps: of the whole phase.
        warm_up: part of the steps in which the rate rises.
    """
    rise = max(1.0, warm_up * steps)
    return min((step + 1) / rise, (steps - step) / max(1.0, steps - rise), 1.0)


class Trainer:
    """Trains one phase.

    Args:
        spec: name, rates, evaluations and seed.
        encoder: the model that is trained, where PyTorch computes.
        teaching: the losses.
        data: examples to train on.
        held: examples held out, to evaluate on.
        execution: number format, processes, checkpoints.
        masking: chooses what stays of the model; None where the structure is fixed.

    Attributes:
        steps: of the whole phase.
    """

    def __init__(
        self,
        spec: PhaseSpec,
        encoder: Encoder,
        teaching: Teaching,
        data: Encoded,
        held: Encoded,
        execution: Execution,
        masking: Mask | None = None,
    ) -> None:
        self._spec, self._name, self._rates = spec, spec.name, spec.rates
        self._encoder, self._teaching, self._held, self._masking = encoder, teaching, held, masking
        self._device, self._precision, self._group = encoder.device, execution.precision, execution.group
        self._checkpoints, self._tell = execution.checkpoints, execution.tell
        rates, times = spec.rates, spec.times
        self.steps = steps_of(rates, len(data))
        self._marks = {round(self.steps * (i + 1) / times) for i in range(times)}
        self._feeder = Feeder(data, rates, f"{spec.seed}/{spec.name}", self._device, self._group)
        self._parameters = trained_parameters(encoder.model)
        self._named = {n: p for n, p in encoder.model.named_parameters() if any(p is q for q in self._parameters)}
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=rates.learning_rate,
            weight_decay=rates.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self._score_optimizer: torch.optim.Optimizer | None = None
        if masking is not None and masking.parameters:
            assert isinstance(rates, ScoredRates)
            self._score_optimizer = torch.optim.Adam(masking.parameters, lr=rates.score_learning_rate, fused=True)
        self._rows: list[Row] = []
        self._best: dict[str, Tensor] = {}
        self._best_at, self._best_loss, self._worse = 0, math.inf, 0
        self._first_losses: list[float] = []
        # Loss, its parts on labels and on outputs, of every step since the last line of the log.
        self._since: list[tuple[float, float | None, float | None]] = []

    def run(self, resume: tuple[dict[str, Any], dict[str, Tensor]] | None = None) -> Phase:
        """Train to the end, or to an early stop.

        Args:
            resume: a checkpoint of this phase, as ``Checkpoints.load`` returns it; None starts from the beginning.

        Raises:
            TrainingError: the loss diverges. A checkpoint, if there is one, is from before that. A model with a fixed
                structure has the weights that were best on the held-out examples.
        """
        masking = self._masking
        with self.training():
            start, before = (0, math.nan) if resume is None else self._restore(*resume)
            if resume is None:
                before = self._held_loss()
                self._tell(f"{self._name}: {self.steps} steps, held out {before:.4f} before the first")
                if masking is None:
                    self._keep(0, before)
            stopped = None
            step = start
            while step < self.steps:
                losses = self.step(step)
                self._watch(float(losses.total), step)
                if self._checkpoints is not None:
                    # The loss of this step was finite: so the state saved before it was good.
                    self._checkpoints.confirm()
                self._since.append((float(losses.total), losses.labels, losses.divergence))
                step += 1
                if step in self._marks or step == self.steps:
                    stopped = self._evaluate(step)
                if stopped:
                    break
                if self._checkpoints is not None and self._checkpoints.due:
                    self.save(step, before)
            if self._checkpoints is not None:
                # Saved after the last step, whose weights have just been evaluated.
                self._checkpoints.confirm()
            if masking is None:
                self._take(self._best)
                if not self._best_at:
                    self._tell(f"{self._name}: nothing was better than the weights that it began with; they stay")
            after = self._best_loss if masking is None else self._rows[-1].held_out
        return Phase(step, self._best_at if masking is None else step, before, after, stopped, tuple(self._rows))

    @contextmanager
    def training(self) -> Iterator[None]:
        """Turn gradients on for the trained parameters; everything is as before when the block ends."""
        model = self._encoder.model
        devices = [self._device] if self._device.type == "cuda" else []
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad(), torch.random.fork_rng(devices=devices):
                yield
        finally:
            model.eval()
            for parameter in self._parameters:
                parameter.requires_grad_(False)
                parameter.grad = None

    def step(self, step: int) -> Losses:
        """One step of the optimizers, inside ``training``, after a projection if one is due.

        Args:
            step: of the phase, 0 being the first; decides examples, budget and rates.

        Returns:
            Means over the step's examples.
        """
        model = self._encoder.model
        if self._masking is not None:
            self._masking.advance(step)
        torch.manual_seed(seed_of(self._spec.seed, self._name, step, self._group.rank))
        model.train(self._rates.dropout)
        self._optimizer.zero_grad(set_to_none=True)
        masking = self._masking
        if masking is not None:
            masking.begin(step)
        losses = combine(self._parameters, self._passes(step), self._group)
        learned = masking is not None and masking.end(step, self._group)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._rates.clip)
        factor = rate_at(step, self.steps, self._rates.warm_up)
        _set_rate(self._optimizer, factor * self._rates.learning_rate)
        self._optimizer.step()
        if learned and masking is not None and self._score_optimizer is not None:
            assert isinstance(self._rates, ScoredRates)
            torch.nn.utils.clip_grad_norm_(masking.parameters, self._rates.score_clip)
            _set_rate(self._score_optimizer, factor * self._rates.score_learning_rate)
            self._score_optimizer.step()
        return losses

    def _passes(self, step: int) -> list[tuple[Losses, float]]:
        """Forward and backward passes of this process's parts of a step; of twice as many where memory runs out."""
        while True:
            done: list[tuple[Losses, float]] = []
            try:
                for batch, share in self._feeder.parts(step):
                    with autocast(self._device, self._precision):
                        done.append((self._backward(batch, share), share))
                return done
            except (MemoryError, RuntimeError) as error:
                if not (out_of_memory(error) and self._feeder.divide(step)):
                    raise
            # Gradients of parts that had room come again with the rest.
            self._optimizer.zero_grad(set_to_none=True)
            self._teaching.forget()
            if self._masking is not None:
                self._masking.restart()
            self._tell(f"warning: {self._name}: memory ran out; a step goes on in {self._feeder.divided} parts")

    def _backward(self, batch: Batch, share: float) -> Losses:
        """Forward and backward pass of a part of a step."""
        model = self._encoder.model
        if self._masking is not None:
            return self._masking.part(lambda: self._teaching(model, batch), share, len(batch.indices))
        losses = self._teaching(model, batch)
        (share * losses.total).backward()
        return losses

    def _watch(self, value: float, step: int) -> None:
        """Stop where a loss is not finite, or far above the first losses."""
        # Without the value itself, which would raise the bound that it is compared with.
        first = self._first_losses or [value]
        usual = sum(first) / len(first)
        bound = DIVERGED * max(usual, 1e-3)
        if math.isfinite(value) and not (self._masking is None and value > bound):
            if len(self._first_losses) < _SETTLED:
                self._first_losses.append(value)
            return
        if self._best:
            self._take(self._best)
        kept = advice = ""
        if self._checkpoints is not None:
            self._checkpoints.discard()
            if self._checkpoints.exists:
                kept = f"; the last good checkpoint is in '{self._checkpoints.directory}'"
                advice = ", and give it a --checkpoints of its own"
        raise TrainingError(
            f"training diverged: the loss is {value:.3g} at step {step + 1} of phase '{self._name}' (it began at "
            f"{usual:.3g}){kept}. Lower learning_rate in a recipe of your own (compress/configs/recipes has some to "
            f"start from){advice}"
        )

    def _evaluate(self, step: int) -> str | None:
        """Write a line of the log; returns why to stop, or None."""
        held = self._held_loss()
        masking = self._masking
        projected = masking.history[-1] if masking is not None and masking.history else None
        loss, labels, divergence = (_mean_of(values) for values in zip(*self._since, strict=True))
        assert loss is not None
        self._since = []
        row = Row(
            phase=self._name,
            step=step,
            loss=loss,
            labels=labels,
            divergence=divergence,
            budget=None if projected is None else projected.budget,
            cost=None if projected is None else projected.cost,
            held_out=held,
        )
        self._rows.append(row)
        budget = "" if projected is None else f", structure {projected.cost:.3g} of {projected.budget:.3g}"
        self._tell(f"{self._name}: step {step} of {self.steps}, loss {row.loss:.4f}, held out {held:.4f}{budget}")
        if not math.isfinite(held):
            self._watch(held, step - 1)
        if masking is not None:
            return None
        if held < self._best_loss:
            self._keep(step, held)
            return None
        self._worse += 1
        if self._spec.patience and self._worse >= self._spec.patience:
            return f"no better in {self._worse} evaluations"
        return None

    def _keep(self, step: int, loss: float) -> None:
        self._best_at, self._best_loss, self._worse = step, loss, 0
        self._best = {name: p.detach().clone() for name, p in self._named.items()}

    def _take(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(weights[name])

    def _held_loss(self) -> float:
        """Mean loss on the held-out examples, with the gates of test time."""
        with nullcontext() if self._masking is None else self._masking.settled():
            return mean_loss(self._teaching, self._encoder.model, self._held, self._group)

    def save(self, step: int, before: float) -> None:
        """Save the state after ``step`` steps.

        Args:
            step: how many were made.
            before: loss on the held-out examples before the first.
        """
        assert self._checkpoints is not None
        tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in self._named.items()}
        tensors |= {f"best.{name}": p for name, p in self._best.items()}
        tensors |= optimizer_tensors("optimizer", self._optimizer)
        facts = {
            **self._spec.facts,
            "phase": self._name,
            "step": step,
            "before": before,
            "best": [self._best_at, self._best_loss, self._worse],
            "first_losses": self._first_losses,
            "since": self._since,
            "rows": [vars(row) for row in self._rows],
        }
        if self._masking is not None:
            facts["mask"], scores = self._masking.state()
            tensors |= {f"scores.{name}": t for name, t in scores.items()}
            if self._score_optimizer is not None:
                tensors |= optimizer_tensors("score-optimizer", self._score_optimizer)
        self._checkpoints.save(facts, tensors)

    def _restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[int, float]:
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = tensor.to(self._device)
        self._take(groups["model"])
        self._best = groups.get("best", {})
        self._best_at, self._best_loss, self._worse = facts["best"]
        self._first_losses = facts["first_losses"]
        self._since = [tuple(losses) for losses in facts["since"]]
        self._rows = [Row(**row) for row in facts["rows"]]
        fill_optimizer(self._optimizer, groups["optimizer"])
        if self._masking is not None:
            self._masking.restore(facts["mask"], groups.get("scores", {}), facts["step"])
            if self._score_optimizer is not None:
                fill_optimizer(self._score_optimizer, groups.get("score-optimizer", {}))
        return facts["step"], facts["before"]


def seed_of(*parts: object) -> int:
    """A seed that is a function of these."""
    return int(np.random.SeedSequence(list("/".join(map(str, parts)).encode())).generate_state(1)[0])


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
