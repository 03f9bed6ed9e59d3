"""The scan follows methods and properties of objects of the package, as lint does."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import attrs
import msgspec
import pytest

from perdure import workflow
from perdure.guard.scan import scan


class Tools:
    def at(self) -> float:
        return time.time()

    def by_itself(self) -> float:
        return self.at()

    @property
    def now(self) -> float:
        return time.time()

    @cached_property
    def once(self) -> str:
        return os.environ["HOME"]

    @staticmethod
    def drawn() -> float:
        return random.random()

    @classmethod
    def made(cls) -> str:
        return str(uuid.uuid4())


class Inherited(Tools):
    pass


class Above(Tools):
    def at(self) -> float:
        return super().at() + 1


class Base:
    def __init__(self) -> None:
        self.id = uuid.uuid4()


class Derived(Base):
    def __init__(self) -> None:
        super().__init__()


@dataclass
class Service:
    tools: Tools = field(default_factory=Tools)

    def read(self) -> float:
        return self.tools.at()


@attrs.define
class WithAttrs:
    id: uuid.UUID = attrs.field(factory=uuid.uuid4)


class Struct(msgspec.Struct):
    id: uuid.UUID = msgspec.field(default_factory=uuid.uuid4)


def tools() -> Tools:
    return Tools()


def given(it: Tools) -> float:
    return it.at()


service = Service()


async def method() -> float:
    return Tools().at()


async def by_itself() -> float:
    return Tools().by_itself()


async def inherited() -> float:
    return Inherited().at()


async def above() -> float:
    it = Above()
    return it.at()


async def of_super() -> object:
    return Derived()


async def property_() -> float:
    return Tools().now


async def cached() -> str:
    return Tools().once


async def static() -> float:
    return Tools().drawn()


async def class_method() -> str:
    return Tools.made()


async def returned() -> float:
    return tools().now


async def parameter() -> float:
    return given(Tools())


async def of_module() -> float:
    return service.read()


async def of_field() -> float:
    return Service().tools.now


async def with_attrs() -> object:
    return WithAttrs()


async def struct() -> object:
    return Struct()


@pytest.mark.parametrize(
    ("flow", "code"),
    [
        (method, "PD101"),
        (by_itself, "PD101"),
        (inherited, "PD101"),
        (above, "PD101"),
        (of_super, "PD103"),
        (property_, "PD101"),
        (cached, "PD105"),
        (static, "PD102"),
        (class_method, "PD103"),
        (returned, "PD101"),
        (parameter, "PD101"),
        (of_module, "PD101"),
        (of_field, "PD101"),
        (with_attrs, "PD103"),
        (struct, "PD103"),
    ],
)
def test_it_is_found(flow: Callable[[], Coroutine[Any, Any, Any]], code: str) -> None:
    assert [finding.rule.code for finding in scan(flow)] == [code]


async def recorded() -> float:
    return await workflow.checkpoint("at", Tools().at)


async def of_another_package() -> str:
    return attrs.make_class("Made", [])().__class__.__name__


@pytest.mark.parametrize("flow", [recorded, of_another_package])
def test_it_is_no_finding(flow: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    assert scan(flow) == []
