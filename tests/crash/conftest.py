"""Two interpreters with different hash seeds, shared by all tests that kill processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from perdure.testing.crash import SEEDS, LifeServer


@pytest.fixture(scope="session")
def servers() -> Iterator[Sequence[LifeServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(LifeServer(seed)) for seed in SEEDS]
