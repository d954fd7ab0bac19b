"""Latency table: milliseconds of attention by heads, of the FFN by filters, and a fixed part.

The functions here are pure. Measurements come in as numbers; ``profile/take.py`` makes them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from compress.core.errors import ProfileError
from compress.core.plan import EncoderShape, Widths

Floats = NDArray[np.float64]

# Matrix kernels work in multiples of 8 or 16 columns: other widths cost as much as the next multiple.
_HARDWARE_STEP = 8
# Largest exponent by which `recalibrated` bends the curves: beyond it the machine has changed, not the curves' form.
_MOST_BENT = 4.0
# Prior of `fit_table`: spread of a step around its share of the curve, as a fraction of that share.
_STEP_SPREAD = 1.0
# Prior of `fit_table`: ratio of the fixed part to the latency with all sublayers removed (1.5 to 1.7 in trials), and
# its spread.
_FIXED_PER_BARE = 1.5
_BARE_SPREAD = 0.5
# Prior of `fit_table`: as if every visit had one more observation without error, with a spread of 10 %.
_VISIT_PRIOR = 0.1**-2


@dataclass(frozen=True)
class LatencyTable:
    """Additive model of end-to-end latency: fixed part + attention of each layer + FFN of each layer.

    The curves start at width 0 with cost 0, end at the dense width, and never fall. A wider sublayer does at least the
    work of a narrower one, so a falling measurement is noise, and a search would buy width at a negative price.

    Attributes:
        layers: number of encoder layers.
        heads: head counts, ascending, 0 to the dense number.
        attention_ms: milliseconds of one attention sublayer at each head count.
        filters: filter counts, ascending, 0 to the dense number.
        ffn_ms: milliseconds of one FFN sublayer at each filter count.
        fixed_ms: milliseconds of embeddings, norms, head and call overhead, in a model that has sublayers.
    """

    layers: int
    heads: tuple[int, ...]
    attention_ms: tuple[float, ...]
    filters: tuple[int, ...]
    ffn_ms: tuple[float, ...]
    fixed_ms: float

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"a latency table needs at least one layer, got {self.layers}")
        for kind, widths, times in (
            ("heads", self.heads, self.attention_ms),
            ("filters", self.filters, self.ffn_ms),
        ):
            if len(widths) < 2 or len(widths) != len(times):
                raise ValueError(f"{kind}: {len(widths)} widths with {len(times)} latencies")
            if widths[0] != 0 or times[0] != 0:
                raise ValueError(f"{kind}: the table must start with width 0 at 0 ms, it has {widths[0]}: {times[0]}")
            if not all(a < b for a, b in itertools.pairwise(widths)):
                raise ValueError(f"{kind}: widths must ascend")
            if not all(a <= b for a, b in itertools.pairwise(times)) or not math.isfinite(times[-1]):
                raise ValueError(f"{kind}: latencies must be finite and must not fall")
        if not (math.isfinite(self.fixed_ms) and self.fixed_ms >= 0 and 0 < self.dense_ms < math.inf):
            raise ValueError(f"the fixed part must be finite and not negative, and not all be 0; got {self.fixed_ms}")

    def attention_at(self, heads: int) -> float:
        """Milliseconds of one attention sublayer; linear between tabulated head counts.

        Raises:
            ProfileError: fewer than 0 or more than the dense number.
        """
        return _interpolate(self.heads, self.attention_ms, heads, "heads")

    def ffn_at(self, filters: int) -> float:
        """Milliseconds of one FFN sublayer; linear between tabulated filter counts.

        Raises:
            ProfileError: fewer than 0 or more than the dense number.
        """
        return _interpolate(self.filters, self.ffn_ms, filters, "filters")

    def predict(self, widths: Widths) -> float:
        """Milliseconds of one call of a model with these widths.

        Raises:
            ProfileError: a width is above the dense one, or the number of layers differs.
        """
        if not len(widths.heads) == len(widths.filters) == self.layers:
            raise ProfileError(
                f"the profile is for {self.layers} layers, the structure has {len(widths.heads)}; take a profile of it"
            )
        return (
            self.fixed_ms
            + math.fsum(map(self.attention_at, widths.heads))
            + math.fsum(map(self.ffn_at, widths.filters))
        )

    @property
    def dense_ms(self) -> float:
        """Milliseconds of the dense model."""
        return self.fixed_ms + self.layers * (self.attention_ms[-1] + self.ffn_ms[-1])

    @property
    def least_ms(self) -> float:
        """The least latency that a search may promise: the fixed part.

        A model with every sublayer removed can be a little faster, since it wakes no worker threads, but it is useless.
        """
        return self.fixed_ms

    def recalibrated(self, widths: Widths, measured_ms: float, dense_ms: float | None = None) -> LatencyTable:
        """A table that predicts ``measured_ms`` for ``widths`` and ``dense_ms`` for the dense model.

        The curves are bent: the cost of a width becomes dense cost x (share of the dense cost) ^ exponent. Costs of
        dense and of removed sublayers do not change, so speed-ups are corrected as well as latencies. If no sensible
        exponent fits, everything is scaled instead, and the dense latency too. That happens if all sublayers are dense
        or removed, or if only a slower machine explains the factor.

        Args:
            widths: the measured structure.
            measured_ms: latency of the structure.
            dense_ms: latency of the dense model, measured beside it; None for the table's own.

        Returns:
            The corrected table.

        Raises:
            ProfileError: a measurement is not a positive number.
        """
        for value in (measured_ms, self.dense_ms if dense_ms is None else dense_ms):
            if not (math.isfinite(value) and value > 0):
                raise ProfileError(f"a measured latency must be a positive number of milliseconds, got {value}")
        table = self if dense_ms is None else self._scaled(dense_ms / self.dense_ms)
        low, high = -math.log(_MOST_BENT), math.log(_MOST_BENT)
        least, most = table._bent(math.exp(high)).predict(widths), table._bent(math.exp(low)).predict(widths)
        if not least <= measured_ms <= most or math.isclose(least, most):
            return self._scaled(measured_ms / self.predict(widths))
        for _ in range(60):
            middle = (low + high) / 2
            if table._bent(math.exp(middle)).predict(widths) > measured_ms:
                low = middle
            else:
                high = middle
        return table._bent(math.exp(high))

    def _scaled(self, factor: float) -> LatencyTable:
        return replace(
            self,
            attention_ms=tuple(factor * ms for ms in self.attention_ms),
            ffn_ms=tuple(factor * ms for ms in self.ffn_ms),
            fixed_ms=factor * self.fixed_ms,
        )

    def _bent(self, exponent: float) -> LatencyTable:
        def bend(curve: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(curve[-1] * (ms / curve[-1]) ** exponent for ms in curve) if curve[-1] > 0 else curve

        return replace(self, attention_ms=bend(self.attention_ms), ffn_ms=bend(self.ffn_ms))


def _interpolate(widths: tuple[int, ...], times: tuple[float, ...], width: int, kind: str) -> float:
    if not 0 <= width <= widths[-1]:
        raise ProfileError(f"{width} {kind} are not in the profile, which has 0 to {widths[-1]}; take another profile")
    return float(np.interp(width, widths, times))


@dataclass(frozen=True)
class PiecewiseLinear:
    """Piecewise-linear latency of a sublayer (Kwon et al. 2022): flat up to a knee, then linear.

    Attributes:
        knee: units up to which the latency is the same.
        base_ms: milliseconds up to the knee.
        slope_ms: milliseconds of each further unit.
    """

    knee: int
    base_ms: float
    slope_ms: float

    def __call__(self, width: float) -> float:
        """Milliseconds at a width; 0 at width 0, a removed sublayer."""
        return 0.0 if width == 0 else self.base_ms + self.slope_ms * max(0.0, width - self.knee)


def fit_piecewise(widths: Sequence[int], ms: Sequence[float]) -> PiecewiseLinear:
    """Fit T(n) = c for n <= knee, c + a (n - knee) above, to a latency curve.

    Every width is tried as the knee: c is the mean up to it, and a >= 0 the least-squares slope beyond it. The knee of
    least error wins. Width 0 is left out, since this form cannot express that a removed sublayer costs nothing.
    Source: Kwon et al., "A Fast Post-Training Pruning Framework for Transformers" (2022), appendix on latency.

    Args:
        widths: ascending numbers of units.
        ms: milliseconds at each width.

    Returns:
        The fit.

    Raises:
        ValueError: there is no width above 0.
    """
    kept = [i for i, width in enumerate(widths) if width > 0]
    if not kept:
        raise ValueError(f"a fit needs at least one width above 0, got {list(widths)}")
    x, y = np.array(widths, dtype=np.float64)[kept], np.array(ms, dtype=np.float64)[kept]
    best, least = PiecewiseLinear(int(x[0]), float(y[0]), 0.0), math.inf
    for count, knee in enumerate(x, start=1):
        base = float(np.mean(y[:count]))
        beyond = x[count:] - knee
        slope = max(0.0, float(beyond @ (y[count:] - base) / (beyond @ beyond))) if len(beyond) else 0.0
        error = float(np.sum((base + slope * np.maximum(x - knee, 0.0) - y) ** 2))
        if error < least:
            best, least = PiecewiseLinear(int(knee), base, slope), error
    return best


def filter_levels(filters: int) -> tuple[int, ...]:
    """Filter counts to measure: about 40, hardware-friendly, closer together at small widths.

    Importance rises steeply with the first filters and flattens out, so small widths need the finest steps.

    Args:
        filters: the dense number F.

    Returns:
        Ascending, from 0 to F: multiples of a unit (F / 96 rounded up to a multiple of 8); every one up to 8 units,
        every second up to 32, every fourth above.
    """
    unit = _HARDWARE_STEP * max(1, math.ceil(filters / 96 / _HARDWARE_STEP))
    multiples = (*range(8), *range(8, 32, 2), *range(32, max(33, math.ceil(filters / unit)), 4))
    levels = [unit * multiple for multiple in multiples if unit * multiple < filters]
    return (*levels, filters)


@dataclass(frozen=True)
class Observation:
    """Latency of one structure, timed in one visit.

    Attributes:
        widths: heads and filters; each must be a width of the table.
        ms: milliseconds of a call.
        spread: standard error of ``ms``, as a fraction of it.
        visit: number of the visit, from 0; structures of one visit share its error.
    """

    widths: Widths
    ms: float
    spread: float
    visit: int


def fit_table(
    shape: EncoderShape,
    heads: Sequence[int],
    filters: Sequence[int],
    observations: Sequence[Observation],
    bare_ms: float | None = None,
) -> tuple[LatencyTable, Floats]:
    """Fit a latency table to all timed structures.

    Every observation is one linear equation: fixed part + steps of the attention curve up to its head counts + steps of
    the FFN curve up to its filter counts = latency. Non-negative least squares on relative errors solves for all steps
    at once. So the curves never fall (isotonic regression of the whole). Uniform structures give the form of the
    curves, and mixed structures give their level: uniform structures alone leave the sum off by several per cent (mixed
    ones lowered the median error from 3 % to 2 % in trials).

    Each equation is weighted by its spread; outliers get less weight (Huber). The common error of all equations of a
    visit is divided out: on a loaded machine it was the larger part of the error, 4 to 20 %. Against noise there is a
    weak prior: steps are proportional to their width, with a spread of their own size. It is far too weak to flatten a
    well-measured staircase.

    Args:
        shape: the dense encoder.
        heads: head counts of the table, ascending from 0 to dense.
        filters: filter counts of the table, ascending from 0 to dense.
        observations: timings of structures with these widths only.
        bare_ms: latency with every sublayer removed, a hint at the fixed part. The fixed part is larger in a model with
            sublayers, since worker threads have to wake. None if it was not measured.

    Returns:
        The table, and for each visit [visits] the factor by which its latencies are too long.
    """
    places = {width: i for i, width in enumerate(heads)}, {width: i for i, width in enumerate(filters)}
    curves = slice(1, len(heads)), slice(len(heads), len(heads) + len(filters) - 1)
    rows = np.zeros((len(observations), curves[1].stop))
    rows[:, 0] = 1.0
    for row, seen in zip(rows, observations, strict=True):
        for place, curve, widths in zip(places, curves, (seen.widths.heads, seen.widths.filters), strict=True):
            for width in widths:
                row[curve][: place[width]] += 1.0
    rows /= np.array([[seen.ms] for seen in observations])
    visits = np.array([seen.visit for seen in observations])
    # No timing is trusted to better than 1 %: a session's place in memory alone changes it by that much.
    precision = 1.0 / np.hypot([seen.spread for seen in observations], 0.01)
    prior, expected = np.zeros((0, rows.shape[1])), np.zeros(0)
    factors, weights = np.ones(visits.max() + 1), precision
    for _ in range(12):
        system = rows * factors[visits, None]
        steps, _norm = nnls(
            np.concatenate([system * weights[:, None], prior]), np.concatenate([weights, expected]), maxiter=5000
        )
        residual = np.maximum(system @ steps, 1e-3)
        error = np.abs(residual - 1.0) * precision
        threshold = max(1.5, 1.5 * float(np.median(error)))
        weights = precision * np.sqrt(np.minimum(1.0, threshold / np.maximum(error, 1e-12)))
        # In a visit whose latencies are too long, predicted / measured is below 1 throughout.
        excess = np.bincount(visits, weights**2 * -np.log(residual), minlength=len(factors))
        factors = factors * np.exp(excess / (np.bincount(visits, weights**2, minlength=len(factors)) + _VISIT_PRIOR))
        factors = factors / np.median(factors)
        prior, expected = _prior(steps, curves, (heads, filters), bare_ms)
    table = LatencyTable(
        layers=shape.layers,
        heads=tuple(heads),
        attention_ms=_running_sum(steps[curves[0]]),
        filters=tuple(filters),
        ffn_ms=_running_sum(steps[curves[1]]),
        fixed_ms=float(steps[0]),
    )
    return table, factors


def _prior(
    steps: Floats, curves: tuple[slice, slice], widths: tuple[Sequence[int], Sequence[int]], bare_ms: float | None
) -> tuple[Floats, Floats]:
    """Equations [n, steps] and right sides [n] of the prior, each with a standard deviation of 1.

    The height of each curve comes from the fit so far; the prior only spreads it over the steps. The first step of a
    curve is left out, since it is the cost of any sublayer, however narrow.
    """
    equations: list[Floats] = []
    expected: list[float] = []
    for curve, levels in zip(curves, widths, strict=True):
        later = np.diff(levels)[1:]
        height = float(steps[curve][1:].sum())
        for i, width in enumerate(later, start=curve.start + 1):
            presumed = height * width / later.sum()
            if presumed > 0:
                equations.append(np.eye(1, len(steps), i)[0] / (_STEP_SPREAD * presumed))
                expected.append(1.0 / _STEP_SPREAD)
    if bare_ms is not None:
        equations.append(np.eye(1, len(steps), 0)[0] / (_BARE_SPREAD * bare_ms))
        expected.append(_FIXED_PER_BARE / _BARE_SPREAD)
    return np.array(equations).reshape(-1, len(steps)), np.array(expected)


def _running_sum(steps: Floats) -> tuple[float, ...]:
    return (0.0, *(float(total) for total in np.cumsum(steps)))
