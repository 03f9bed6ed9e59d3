"""The examples as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def example() -> Callable[[str], ModuleType]:
    """Load an example under a name of its own."""

    def load(name: str) -> ModuleType:
        own = f"example_{name}"
        if own not in sys.modules:
            spec = importlib.util.spec_from_file_location(own, EXAMPLES / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[own] = (
                module  # before it runs: dataclasses and records look their types up in it
            )
            spec.loader.exec_module(module)
        return sys.modules[own]

    return load
