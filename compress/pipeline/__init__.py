"""One file per command: which stage follows which.

    compression    run: all stages in order
    single_stages  plan, profile, export
    revalidation   validate
    sweep          many budgets;  sweep_result, sweep_plot: its points and picture
    unstructured   the run of --unstructured
    dry_run        what a resumed run would do
    helper         what the other processes of a run do

May import everything but demo, api and cli. The names below are public.
"""

from __future__ import annotations

from compress.pipeline.compression import RunResult, foresee, run, why
from compress.pipeline.revalidation import validate_artifact
from compress.pipeline.single_stages import export_plan, make_plan, profile_model, profile_shapes

__all__ = [
    "RunResult",
    "export_plan",
    "foresee",
    "make_plan",
    "profile_model",
    "profile_shapes",
    "run",
    "validate_artifact",
    "why",
]
