"""`kill -9` under foreign clients, for PERDURE_LONG_SECONDS: what they were promised holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from storm import storm

SEED = 7


@pytest.mark.long
@pytest.mark.timeout(7_200)  # for a storm of an hour
def test_what_was_acknowledged_holds_through_a_kill_storm(
    tmp_path: Path, long_seconds: float
) -> None:
    raged = storm(long_seconds, SEED, tmp_path)
    assert raged.kills > 5
    assert raged.operations["sent"] > 10
    assert not raged.breaches, "\n".join(raged.breaches)
