"""The plan: which heads and filters are kept, and why. Values without tensors, validated when made, readable as JSON.

Laws (``tests/core/test_plan.py``): ``Plan.from_json(p.to_json()) == p``; the JSON of equal plans is equal byte for
byte; a plan whose units do not exist in its shape cannot be made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress.core.errors import PlanError
from compress.core.parsing import Unreadable, parse_json, read_text

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT_VERSION = 1

# Far beyond any encoder: arithmetic with sizes cannot overflow.
MOST_UNITS = 10**6
# Files are read strictly: unknown keys, texts for numbers and NaN are refused.
_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

BudgetKind = Literal["latency_ms", "speedup", "macs"]


@dataclass(frozen=True)
class EncoderShape:
    """Dense sizes of an encoder, on which a plan, a profile and a model must agree.

    Attributes:
        model_type: the family, as in the checkpoint's ``config.json`` (``bert``, ``distilbert``).
        layers: number of encoder layers, L.
        hidden_size: width of the residual stream, d.
        heads: attention heads per layer, H.
        head_size: width of one head, d_h.
        filters: FFN intermediate neurons per layer, F.
        gated: whether a filter's activation is multiplied by a second projection of the input.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    model_type: str
    layers: int
    hidden_size: int
    heads: int
    head_size: int
    filters: int
    gated: bool = False

    def check(self) -> None:
        """Raise PlanError unless an encoder can have all these sizes."""
        for name in ("layers", "hidden_size", "heads", "head_size", "filters"):
            if not 1 <= (size := getattr(self, name)) <= MOST_UNITS:
                raise PlanError(f"an encoder has 1 to {MOST_UNITS} {name.replace('_', ' ')}, the plan says {size}")

    def macs_per_head(self, length: float) -> float:
        """Return the multiply-accumulates of one head at a sequence length: 4·s·d·d_h + 2·s²·d_h."""
        return 4 * length * self.hidden_size * self.head_size + 2 * length * length * self.head_size

    def macs_per_filter(self, length: float) -> float:
        """Return the multiply-accumulates of one FFN filter at a sequence length: 2·s·d, with a gate 3·s·d."""
        return (3 if self.gated else 2) * length * self.hidden_size

    def macs(self, widths: Widths, length: float) -> float:
        """Return the multiply-accumulates of the encoder's sublayers for one sequence.

        Args:
            widths: heads and filters of each layer.
            length: tokens of the sequence.
        """
        return sum(widths.heads) * self.macs_per_head(length) + sum(widths.filters) * self.macs_per_filter(length)

    @property
    def dense(self) -> Widths:
        """The widths of the unpruned encoder."""
        return Widths(heads=(self.heads,) * self.layers, filters=(self.filters,) * self.layers)


@dataclass(frozen=True)
class Widths:
    """Number of heads and of filters of each layer, in layer order."""

    heads: tuple[int, ...]
    filters: tuple[int, ...]


@dataclass(frozen=True)
class Structure:
    """Heads and filters that each layer keeps: ascending indices into the dense layer, in layer order."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    heads: tuple[tuple[int, ...], ...]
    filters: tuple[tuple[int, ...], ...]

    @property
    def widths(self) -> Widths:
        """The number of units kept."""
        return Widths(heads=tuple(map(len, self.heads)), filters=tuple(map(len, self.filters)))

    @classmethod
    def dense(cls, shape: EncoderShape) -> Structure:
        """Return the structure that keeps everything."""
        return cls(
            heads=(tuple(range(shape.heads)),) * shape.layers, filters=(tuple(range(shape.filters)),) * shape.layers
        )

    def check(self, shape: EncoderShape) -> None:
        """Raise PlanError unless every unit exists in ``shape``, once and in ascending order."""
        for kind, layers, limit in (("heads", self.heads, shape.heads), ("filters", self.filters, shape.filters)):
            if len(layers) != shape.layers:
                raise PlanError(f"plan has {kind} for {len(layers)} layers, the model has {shape.layers}")
            for number, units in enumerate(layers):
                ascending = all(a < b for a, b in pairwise(units))
                if not ascending or (units and (units[0] < 0 or units[-1] >= limit)):
                    raise PlanError(
                        f"{kind} of layer {number} must be ascending and in 0..{limit - 1}, got {list(units)[:8]}..."
                    )


@dataclass(frozen=True)
class Budget:
    """The one constraint of a run: end-to-end milliseconds, a speed-up, or a fraction of the dense MACs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    kind: BudgetKind
    value: float

    def latency_ms(self, dense_ms: float) -> float | None:
        """Return the budget in milliseconds given the dense latency; None for a MACs budget."""
        if self.kind == "latency_ms":
            return self.value
        return dense_ms / self.value if self.kind == "speedup" else None

    def __str__(self) -> str:
        unit = {"latency_ms": f"{self.value:g} ms", "speedup": f"{self.value:g}x", "macs": f"{self.value:g} of MACs"}
        return unit[self.kind]


@dataclass(frozen=True)
class Plan:
    """A structure and the reasons for it.

    Attributes:
        shape: the dense encoder the plan was made for.
        structure: the units kept.
        budget: the budget it was made for.
        method: ``full`` or ``kwon``.
        macs_fraction: sublayer MACs kept, at the calibration data's mean length.
        predicted_ms: latency the profile predicts; None where no profile was used.
        dense_ms: latency the profile gives for the dense model; None where no profile was used.
        latency_source: ``measured`` or ``estimated`` profile, with ``, interpolated`` where its length lies between two
            profiled ones; None where no profile was used.
        importance_kept: fraction of the search's objective that is kept, 0..1.
        optimality_gap: upper bound on how much of the objective an exact solution could add, as a fraction; 0 is
            proven optimal, None where the method gives no bound (``kwon``).
        seed: seed of the run.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    shape: EncoderShape
    structure: Structure
    budget: Budget
    method: str
    macs_fraction: float
    predicted_ms: float | None = None
    dense_ms: float | None = None
    latency_source: str | None = None
    importance_kept: float = 1.0
    optimality_gap: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.shape.check()
        self.structure.check(self.shape)

    def to_json(self) -> str:
        """Return the plan as JSON with sorted keys and a final newline; equal plans give equal bytes."""
        return json.dumps({"format": FORMAT_VERSION, **asdict(self)}, sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that ``to_json`` wrote.

        Raises:
            PlanError: the text is not a plan, has another format version, or contradicts itself.
        """
        from pydantic import ValidationError

        try:
            raw = parse_json(text)
        except Unreadable as error:
            raise PlanError(f"this is not a plan.json of compress: {error}") from None
        if not isinstance(raw, dict) or "format" not in raw:
            raise PlanError("this is not a plan.json of compress: it does not say its format; see `compress plan`")
        version = raw.pop("format")
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise PlanError(
                f"plan has format {version!r}, this version of compress reads format {FORMAT_VERSION}; "
                "install the version that wrote it (an artifact's manifest.json says which), or make the plan again"
            )
        try:
            # As JSON again: there lists may stand for tuples, and types are strict all the same.
            return _adapter().validate_json(json.dumps(raw))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "plan"
            raise PlanError(f"plan is damaged: {where}: {first['msg']}; make it again with `compress plan`") from None

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """Read a plan file, or the ``plan.json`` of an artifact directory.

        Raises:
            PlanError: the file cannot be read or is not a plan.
        """
        file = Path(path)
        file = file / "plan.json" if file.is_dir() else file
        try:
            return cls.from_json(read_text(file))
        except Unreadable as error:
            raise PlanError(f"cannot read plan '{file}': {error}") from None

    @property
    def estimated(self) -> bool:
        """Whether its latencies come from a data sheet."""
        return (self.latency_source or "").startswith("estimated")

    def explain(self) -> str:
        """Return plain text for a person: the units kept, layer by layer, and the predicted latency."""
        widths = self.structure.widths
        lines = [
            f"plan for {self.shape.model_type} ({self.shape.layers} layers x {self.shape.heads} heads, "
            f"{self.shape.filters} filters), method {self.method}, budget {self.budget}"
        ]
        for number, (heads, filters) in enumerate(zip(widths.heads, widths.filters, strict=True)):
            attention = f"{heads:3d} of {self.shape.heads} heads" if heads else "attention removed"
            ffn = f"{filters:5d} of {self.shape.filters} filters" if filters else "FFN removed"
            lines.append(f"  layer {number:2d}: {attention:20s}  {ffn}")
        lines.append(f"  MACs kept: {self.macs_fraction:.1%}; importance kept: {self.importance_kept:.2%}")
        if self.predicted_ms is not None and self.dense_ms is not None:
            lines.append(
                f"  latency: {self.predicted_ms:.2f} ms predicted ({self.latency_source} profile), "
                f"{self.dense_ms:.2f} ms dense, {self.dense_ms / self.predicted_ms:.2f}x"
            )
        if self.optimality_gap is not None:
            lines.append(f"  optimality gap of the search: at most {self.optimality_gap:.3%} of the objective")
        return "\n".join(lines)


@cache
def _adapter() -> TypeAdapter[Plan]:
    # Made when the first plan is read: most of what imports this module reads none.
    from pydantic import TypeAdapter

    return TypeAdapter(Plan)
