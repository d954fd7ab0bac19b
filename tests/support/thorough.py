"""How much is tried: a sample while one works (``dev``), everything before a change goes in (``ci``).

``HYPOTHESIS_PROFILE`` names the profile; ``make test-all`` and ``.ci/run`` take ``ci``.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "dev")
THOROUGH = PROFILE == "ci"
_SAMPLE = 25
# Shared machines pause for seconds: a deadline would fail tests that are right.
settings.register_profile("ci", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", settings.get_profile("ci"), max_examples=_SAMPLE)
settings.load_profile(PROFILE)


def examples(number: int) -> settings:
    """Settings of a test that tries another number of examples than most.

    Args:
        number: under ``ci``; under ``dev`` at most a sample of them.
    """
    return settings(max_examples=number if THOROUGH else min(number, _SAMPLE))
