"""What every test shares: property tests that give the same verdict on each machine, however slow."""

from __future__ import annotations

import gc
import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis.strategies import none

# No deadline: a slow machine is not a bug. No database: a run depends on the tree alone.
# Derandomised: who looks for new counterexamples passes `--hypothesis-profile=search`.
settings.register_profile("perdure", deadline=None, database=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile("perdure")


def pytest_configure() -> None:
    """Let Ctrl-C mean something again to the programs that tests start.

    A shell has its background jobs ignore it, which their children inherit: `make test &` would hang.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Take what the collection has made out of the collector's sight: it lives until the end of the process.

    A collection looks at all that lives, and hundreds of tests ask for one. With the thousands of tests themselves in
    its sight each costs a tenth of a second.
    """
    _use_hypothesis()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _settled_memory() -> None:
    """Take what the tests before have left out of the collector's sight, too."""
    gc.collect()
    gc.freeze()


@given(none())
def _use_hypothesis(_: None) -> None:
    """Have Hypothesis register its source of randomness, which it does not find in use once that is frozen."""


@pytest.fixture
def long_seconds() -> float:
    """How long a test with the mark `long` works, at most."""
    return float(os.environ.get("PERDURE_LONG_SECONDS", "30"))
