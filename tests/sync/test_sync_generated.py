"""The blocking classes are what the generator makes of the asynchronous ones, and lack nothing."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest

from perdure.client.client import Client
from perdure.client.handle import Handle
from perdure.client.workflow_handle import WorkflowHandle
from perdure.node import Node
from perdure.sync import SyncClient, SyncHandle, SyncNode, SyncWorkflowHandle

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [
    (Handle, SyncHandle),
    (WorkflowHandle, SyncWorkflowHandle),
    (Client, SyncClient),
    (Node, SyncNode),
]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_sync", ROOT / "scripts" / "generate_sync.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_what_the_generator_writes(generator: ModuleType) -> None:
    written = (ROOT / "src" / "perdure" / "sync" / "facade.py").read_text(encoding="utf-8")
    assert written == generator.Generator().text(), (
        "run `make format`, or python scripts/generate_sync.py"
    )


def public(cls: type) -> set[str]:
    return {name for base in cls.__mro__[:-1] for name in vars(base) if not name.startswith("_")}


@pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=lambda cls: cls.__name__)
def test_nothing_public_is_missing(theirs: type, ours: type, generator: ModuleType) -> None:
    left_out = set(generator.LEFT_OUT.get(theirs.__name__, {}))
    assert left_out <= public(theirs), "what is left out exists"
    attributes = {
        name
        for owner, names in generator.ATTRIBUTES.items()
        for name in names
        if owner in str(theirs.__mro__)
    }
    assert public(ours) == (public(theirs) - left_out) | attributes


@pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=lambda cls: cls.__name__)
def test_parameters_are_the_same(theirs: type, ours: type) -> None:
    for name in public(ours) & public(theirs):
        own, original = inspect.getattr_static(ours, name), inspect.getattr_static(theirs, name)
        if isinstance(original, property):
            assert isinstance(own, property)
            continue
        assert not inspect.iscoroutinefunction(own)
        assert not inspect.isasyncgenfunction(own)
        assert inspect.signature(own).parameters == inspect.signature(original).parameters, name
        assert own.__doc__, name
