"""Paths in messages, by their names from the current folder."""

from __future__ import annotations

import pytest

from perdure.cli import screen


@pytest.mark.parametrize(
    ("folder", "text", "shown"),
    [
        ("/srv/shop", "/srv/shop/a.py:3 in pay", "a.py:3 in pay"),
        ("/srv/shop", "use 'sqlite:////srv/shop/new.db'", "use 'sqlite:///new.db'"),
        ("/srv/shop", "(/srv/shop/a.db, /srv/shop/b.db)", "(a.db, b.db)"),
        ("/srv/shop", "the folder /srv/shop, and /srv/shopping/a.db", None),
        # The middle of another path.
        ("/tmp", "/var/tmp/a.db", None),
        ("/tmp", "sqlite:////var/tmp/a.db", None),
        ("/shop", "postgresql://db/shop/x", None),
        # In a container the current folder is often the root.
        ("/", "sqlite:////data/old.db has moved to postgresql://db/shop", None),
    ],
)
def test_only_whole_paths_are_shortened(
    monkeypatch: pytest.MonkeyPatch, folder: str, text: str, shown: str | None
) -> None:
    monkeypatch.setattr("os.getcwd", lambda: folder)
    if shown is None:
        shown = text
    assert screen.near(text) == shown
