"""How hypothesis runs here: without deadlines, and repeatable in CI."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "house",
    # Several test processes share few cores: the time of one example says nothing.
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("house"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))
