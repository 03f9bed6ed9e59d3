"""What every test shares: property tests that give the same verdict on each machine, however slow."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

# No deadline: a slow machine is not a bug. No database: a run depends on the tree alone.
# Derandomised: who looks for new counterexamples passes `--hypothesis-profile=search`.
settings.register_profile("perdure", deadline=None, database=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile("perdure")


def pytest_collection_finish() -> None:
    """Take what the collection has made out of the collector's sight: it lives until the end of the process.

    A collection looks at all that lives, and hundreds of tests ask for one. With the thousands of tests themselves in
    its sight each costs a tenth of a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def long_seconds() -> float:
    """How long a test with the mark `long` works, at most."""
    return float(os.environ.get("PERDURE_LONG_SECONDS", "30"))
