"""However the event loop is torn down around a node, no attempt has failed: each runs again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import teardown

from perdure.kernel.data import events as ev

USUAL = ("sibling_in_gather", "ctrl_c_in_main", "cancel_all_and_stop_late", "main_returns")
"""The forms that each run tries. Each takes a second, and the others come with the long tests."""


def _form(form: str) -> object:
    if form in USUAL:
        return form
    return pytest.param(form, marks=pytest.mark.long)


@pytest.mark.parametrize("form", [_form(form) for form in teardown.FORMS])
async def test_a_teardown_is_no_failure(form: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    first = subprocess.run(
        [sys.executable, teardown.__file__, form, url], capture_output=True, text=True, timeout=60
    )
    ends: dict[str, str] = {}
    async with teardown.app.node(url) as node:
        for name in teardown.NAMES:
            handle = node.client.workflow(teardown.calls, id=name)
            ended = await handle.wait(timeout=30)
            assert ended.status in {"completed", "failed"}, first.stderr
            ends[name] = str(ended.failure or await handle.result())
            for entry in await handle.history():
                assert not isinstance(entry.event, (ev.AttemptFailed, ev.ActivityFailed)), (
                    name,
                    entry.event,
                )
    assert ends == dict.fromkeys(teardown.NAMES, "done in attempt 1"), first.stderr

    if form == "cancel_all_and_keep_the_node":
        assert "all tasks of the event loop of node" in first.stderr
