"""The stage of a run: from a finished candidate to a fine-pruned one that is exported and measured again."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.broadcast import training
from compress.checkpoint import Checkpoint, load_checkpoint
from compress.config import RunConfig
from compress.errors import ArtifactError, ConfigError, DataError, ModelError, TrainingError
from compress.fineprune.projection import importance_of, masks_of
from compress.fineprune.recipe import Recipe, load_recipe
from compress.fineprune.settling import Settling, costs_of
from compress.finishing import pruned
from compress.loading import Loaded, load_training
from compress.plan import Plan, Structure
from compress.planning import describe_plan
from compress.ranks import Group, joined
from compress.results import FinePruned
from compress.sensitivity import refusal_of

if TYPE_CHECKING:
    from compress.data import Encoded
    from compress.fineprune.rounding import Rounding
    from compress.fineprune.session import Session
    from compress.fineprune.train import Phase, Row
    from compress.measuring import Device
    from compress.profile.latency import Profile
    from compress.results import Finished, Repairs
    from compress.stages import Stages

# Fewer examples cannot be divided into some to train and some to watch with.
LEAST_EXAMPLES = 64
LOG = "training.csv"


@dataclass(frozen=True)
class Prepared:
    """What fine-pruning needs beyond a run, read and checked before anything is computed.

    Attributes:
        recipe: what is done.
        teacher: None where the dense model teaches, or nobody does.
        train, held: examples to train on and to watch with.
    """

    recipe: Recipe
    teacher: Checkpoint | None
    train: Encoded
    held: Encoded


def prepare(config: RunConfig, loaded: Loaded, stages: Stages) -> Prepared | None:
    """Read recipe, teacher and training examples; None where nothing is fine-pruned.

    Raises:
        ConfigError: the recipe is wrong, or options contradict it.
        DataError: no data to train on, or too little.
        ModelError: the teacher does not fit the model.
        TrainingError: what training needs is not installed.
    """
    if config.fine_prune is None and config.unstructured is None:
        for name in ("teacher", "checkpoints"):
            if getattr(config, name) is not None:
                raise ConfigError(f"--{name} is for --fine-prune; add a recipe (--fine-prune quick), or leave it out")
        return None
    recipe = load_recipe(config.fine_prune or "unstructured")
    _refuse_other_job(recipe, config)
    if config.teacher is not None and not recipe.taught:
        raise ConfigError(
            f"--teacher {config.teacher}: recipe '{recipe.name}' distils nothing (weight and hidden are 0); leave the "
            "teacher out, or choose another recipe"
        )
    if config.size_mb is not None and recipe.structure is not None:
        raise ConfigError(
            f"--size-mb {config.size_mb:g}: recipe '{recipe.name}' finds a structure of its own, and knows nothing of "
            "bytes; choose a recipe without [structure], such as quick"
        )
    if recipe.unstructured is not None and not recipe.unstructured.trains:
        if config.checkpoints is not None:
            raise ConfigError(f"--checkpoints: recipe '{recipe.name}' trains nothing; leave them out")
        return Prepared(recipe, None, loaded.calibration.select([]), loaded.calibration.select([]))
    _require_accelerate()
    examples = load_training(config, loaded, recipe.examples, recipe.seq_len)
    if len(examples) < LEAST_EXAMPLES:
        untrained = "leave out --fine-prune" if config.unstructured is None else "take --fine-prune one-shot"
        raise DataError(
            f"{len(examples)} examples are too few to train on; give at least {LEAST_EXAMPLES} with --data, or "
            f"{untrained}"
        )
    if examples.labels is None and recipe.distillation.weight == 0:
        raise DataError(
            f"recipe '{recipe.name}' learns from labels alone, and the data has none; name their column with "
            "--label-column, or choose a recipe that distils"
        )
    teacher = None if config.teacher is None else load_teacher(config.teacher, config, loaded.checkpoint)
    order = np.random.default_rng(config.seed).permutation(len(examples))
    watching = recipe.validation
    count = max(1, min(watching.most, round(watching.held_out * len(examples))))
    held, train = (examples.select(np.sort(part)) for part in np.split(order, [count]))
    # Labels are not for everyone: a run that is to do without them trains without them.
    if config.label_free:
        held, train = (replace(part, labels=None) for part in (held, train))
    stages.info(
        f"fine-pruning, recipe '{recipe.name}': {len(train)} training examples of {train.mean_length:.1f} tokens, "
        f"{len(held)} held out"
    )
    return Prepared(recipe, teacher, train, held)


def _refuse_other_job(recipe: Recipe, config: RunConfig) -> None:
    """Raise ConfigError where a recipe is for single weights and the run is not, or the other way round."""
    if recipe.unstructured is None and config.unstructured is not None:
        raise ConfigError(
            f"--unstructured {config.unstructured:g}: recipe '{recipe.name}' has no table [unstructured]; choose one "
            "that has (unstructured, one-shot), or leave out --fine-prune"
        )
    if recipe.unstructured is not None and config.unstructured is None:
        raise ConfigError(
            f"recipe '{recipe.name}' is for single weights: give --unstructured F (0.1 leaves a tenth of them) instead "
            "of a budget, or choose another recipe"
        )


def _require_accelerate() -> None:
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise TrainingError(
            "fine-pruning needs accelerate, which is not installed: pip install 'compress[train]'"
        ) from None


def load_teacher(name: str, config: RunConfig, ours: Checkpoint) -> Checkpoint:
    """Another teacher than the dense model, ``ours``.

    Raises:
        ModelError: its task, labels or tokenizer are not the model's.
    """
    theirs = load_checkpoint(name, ours.task.name, config.seq_len)
    labels = [
        {int(number): str(label) for number, label in (getattr(c.model.config, "id2label", None) or {}).items()}
        for c in (ours, theirs)
    ]
    if labels[0] != labels[1]:
        raise ModelError(
            f"teacher '{name}' has the labels {', '.join(labels[1].values())}, the model "
            f"{', '.join(labels[0].values())}, in their order; a teacher needs the same"
        )
    # Of a model of images there is a processor in its place, and no vocabulary.
    texts = hasattr(ours.tokenizer, "get_vocab")
    if texts and ours.tokenizer.get_vocab() != theirs.tokenizer.get_vocab():
        raise ModelError(
            f"teacher '{name}' has another tokenizer ({len(theirs.tokenizer)} tokens, the model "
            f"{len(ours.tokenizer)}): it reads other numbers; choose a teacher with the model's vocabulary"
        )
    return replace(theirs, task=ours.task)


def fine_prune(
    config: RunConfig, loaded: Loaded, prepared: Prepared, chosen: Finished, device: Device, log: Path, stages: Stages
) -> Finished:
    """Train what a run has finished, export and measure it again.

    Args:
        config: options.
        loaded: dense model and data.
        prepared: by ``prepare``.
        chosen: the post-training result.
        device: the run's.
        log: directory of the artifact, which gets ``training.csv``.
        stages: told how it goes.

    Raises:
        TrainingError: training diverges.
    """
    before = {key: value for key, value in chosen.measured["metric"].items() if key != "outcomes"}
    with stages.stage("fine-prune"):
        trained = _train(config, loaded, prepared, chosen, device, stages)
        plan, phases = trained.plan, trained.phases
        write_log(log / LOG, [row for _, phase in phases for row in phase.rows])
    engine = chosen.proposal.engine
    with stages.stage("export"):
        exported = device.export(trained.model, loaded, engine, config.int8_drop, stages)
    stages.info(exported.summary())
    with stages.stage("validate"):
        _, validation = device.validate(plan, exported, loaded, trained.profile)
        if validation["verdict"] != "pass" and chosen.measured["verdict"] == "pass":
            # The weights of a structure that was within the budget make it no slower: the device was, for a while.
            _, validation = device.validate(plan, exported, loaded, trained.profile)
    stages.info(validation["reason"])
    after = validation["metric"]["compressed"]
    stages.info(f"{before['name']} {before['compressed']:.4f} before fine-pruning, {after:.4f} after it")
    refused = refusal_of(validation, exported, loaded, config.int8_drop)
    done = FinePruned(
        recipe=prepared.recipe.model_dump(mode="json", exclude_none=True),
        teacher=teacher_name(prepared, loaded),
        examples=len(prepared.train),
        phases=tuple({"name": name, **phase_summary(phase)} for name, phase in phases),
        metric_before=before["compressed"],
        processes=joined().world,
    )
    validation = {**validation, "fine_pruned": {"recipe": prepared.recipe.name, "before": before}}
    return replace(
        chosen,
        proposal=replace(chosen.proposal, plan=plan, profile=trained.profile),
        model=trained.model,
        repairs=replace(trained.repairs, fine_pruned=done),
        exported=exported,
        validation=validation,
        refused=refused,
    )


def phase_summary(phase: Phase) -> dict[str, Any]:
    """A phase for the manifest: all but its log."""
    return {key: value for key, value in asdict(phase).items() if key != "rows"}


def teacher_name(prepared: Prepared, loaded: Loaded) -> str | None:
    """Whose outputs are learned; None where nobody teaches."""
    if not prepared.recipe.taught:
        return None
    return (prepared.teacher or loaded.checkpoint).name


@dataclass(frozen=True)
class _Trained:
    """What all phases come to.

    Attributes:
        model: on the processor.
        plan, profile: of its structure, and what predicts it.
        repairs: what the weights had been through before they were trained.
        phases: what each ended with, by name.
    """

    model: Any
    plan: Plan
    profile: Profile | None
    repairs: Repairs
    phases: list[tuple[str, Phase]]


def _train(
    config: RunConfig, loaded: Loaded, prepared: Prepared, chosen: Finished, device: Device, stages: Stages
) -> _Trained:
    """All phases."""
    plan, profile, repairs = chosen.proposal.plan, chosen.proposal.profile, chosen.repairs
    found = plan.structure.widths != plan.shape.dense and prepared.recipe.structure is not None
    session = open_session(config, loaded, prepared, stages)
    structure, model = session.resumed_structure(), None
    if structure is not None:
        stages.info("going on from the checkpoint, with its structure")
        if structure != plan.structure:
            plan = _plan_of(structure, config, loaded, chosen, profile)
    elif found:
        costs = costs_of(config, loaded, chosen.proposal)
        settling = Settling.of(config, loaded, chosen.proposal, costs, device, stages)
        start = importance_of(chosen.proposal.weighed.rankings)
        dense, masking, _ = session.find_structure(costs, start, settling)
        structure, profile = masking.structure, profile if settling is None else settling.profile
        plan = _plan_of(structure, config, loaded, chosen, profile)
        model, repairs = _better(config, loaded, plan, session.carry_out(dense, masking), session, repairs, stages)
    else:
        structure, model = plan.structure, copy.deepcopy(chosen.model)
    if prepared.recipe.weights is not None and session.resumed_phase != "quantization":
        model, _ = session.train_weights(model, structure)
    rounding = _rounding(config, prepared, chosen, session, stages)
    if rounding is not None:
        model, _ = session.train_quantized(model, structure, rounding)
    assert model is not None
    return _Trained(model.cpu(), plan, profile, repairs, session.phases)


def _better(
    config: RunConfig, loaded: Loaded, plan: Plan, trained: Any, session: Session, repairs: Repairs, stages: Stages
) -> tuple[Any, Repairs]:
    """The weights that a structure's scores were found with, or those that reconstruction gives it, if they do better.

    Some hundred steps under a falling budget do not make up for what the closed form gives at once.
    """
    rebuilt, done = pruned(config, loaded, plan, stages)
    losses = session.held_loss(trained), session.held_loss(rebuilt)
    taken = losses[1] < losses[0]
    stages.info(
        f"loss on held-out examples {losses[0]:.4f} as trained, {losses[1]:.4f} reconstructed from the dense model: "
        f"{'the reconstructed' if taken else 'the trained'} weights go on"
    )
    return (rebuilt, done) if taken else (trained, repairs)


def _rounding(
    config: RunConfig, prepared: Prepared, chosen: Finished, session: Session, stages: Stages
) -> Rounding | None:
    """The rounding that the last phase trains with; None where the recipe has none, or the file is not dynamic int8.

    Raises:
        ArtifactError: the checkpoint is of int8, the file is not.
    """
    from compress.fineprune.rounding import Rounding

    if prepared.recipe.quantization is None:
        return None
    engine = chosen.exported.engine
    rounding = Rounding.of(engine, chosen.exported.float_path, config.batch_size)
    if rounding is None:
        if session.resumed_phase == "quantization":
            raise ArtifactError(
                f"the checkpoint in '{config.checkpoints}' was trained for dynamic int8, this run takes {engine.name}; "
                "choose another --checkpoints, or ask for --precision int8"
            )
        stages.info(
            f"[quantization] of recipe '{prepared.recipe.name}' is left out: it rounds as dynamic int8 does, and this "
            f"file is {engine.name}"
        )
    return rounding


def open_session(config: RunConfig, loaded: Loaded, prepared: Prepared, stages: Stages) -> Session:
    """The training of a run, at its beginning or where a checkpoint left it."""
    from compress.fineprune.session import Session

    return Session(
        loaded.checkpoint,
        prepared.teacher,
        prepared.recipe,
        prepared.train,
        prepared.held,
        seed=config.seed,
        checkpoints=None if config.checkpoints is None else Path(config.checkpoints),
        minutes=config.checkpoint_minutes,
        fingerprint=_fingerprint(config, loaded, prepared),
        tell=stages.info,
        # Single weights are masked by the first process alone.
        group=_group(config, loaded, prepared) if config.unstructured is None else None,
    )


def _group(config: RunConfig, loaded: Loaded, prepared: Prepared) -> Group:
    return training(
        config,
        loaded.checkpoint.fingerprint,
        prepared.recipe.model_dump_json(),
        None if prepared.teacher is None else prepared.teacher.fingerprint,
        {"calibration": loaded.calibration, "train": prepared.train, "held": prepared.held},
    )


def _plan_of(
    structure: Structure, config: RunConfig, loaded: Loaded, chosen: Finished, profile: Profile | None
) -> Plan:
    """The plan of a structure that scores chose."""
    before, rankings = chosen.proposal.plan, chosen.proposal.weighed.rankings
    plan = describe_plan(
        loaded.shape, structure, before.budget, before.method, rankings, loaded.length, profile, None, config.seed
    )
    masks, importance = masks_of(structure, loaded.shape), importance_of(rankings)
    kept = sum(float(part[mask].sum()) for part, mask in zip(importance, masks, strict=True))
    return replace(plan, importance_kept=round(kept / max(sum(float(p.sum()) for p in importance), 1e-30), 6))


def _fingerprint(config: RunConfig, loaded: Loaded, prepared: Prepared) -> str:
    """Of everything that training depends on but the structure, which a checkpoint carries itself."""
    facts = {
        "recipe": prepared.recipe.model_dump(mode="json"),
        "model": loaded.checkpoint.fingerprint,
        "teacher": None if prepared.teacher is None else prepared.teacher.fingerprint,
        "train": prepared.train.fingerprint(),
        "budget": str(config.budget) if config.unstructured is None else f"{config.unstructured} of the weights",
        "method": config.method,
        "target": config.target,
        "deployment": [config.batch_size, config.seq_len],
        "seed": config.seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def write_log(path: Path, rows: list[Row]) -> None:
    """Write the log of a training as csv."""
    from compress.fineprune.train import Row

    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)
