"""Units that a test leaves behind leave memory as a node would have them do it: no line of their code runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from replay.harness import opened


@pytest.fixture(autouse=True)
def _close_units() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close_memory()
