"""The values that an expression may stand for, as far as source shows them.

None means that the value is not known.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from perdure.lint.scope import Scope
    from perdure.lint.source import Source

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class External:
    """A name outside of the project, with its dots. Builtins have no dot."""

    name: str


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the project."""

    source: Source


@dataclass(frozen=True, slots=True, eq=False)
class Class:
    """A class of the project."""

    node: ast.ClassDef
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function of the project, and the class whose method it is."""

    node: FunctionNode
    scope: Scope
    owner: Class | None = None


@dataclass(frozen=True, slots=True)
class Object:
    """An object of a type.

    `set[str]` is External("set") with the argument Object(External("str")).
    """

    type: External | Class
    arguments: tuple[Value, ...] = ()

    @property
    def builtin(self) -> str:
        """The name of its type. The empty string for a class of the project."""
        if isinstance(self.type, External):
            return self.type.name
        return ""


Value: TypeAlias = External | Module | Class | Function | Object | None

TEXT = Object(External("str"))
NUMBER = Object(External("int"))
BYTES = Object(External("bytes"))

_SAME_TYPE = {
    "typing.Set": "set",
    "typing.MutableSet": "set",
    "typing.AbstractSet": "set",
    "typing.FrozenSet": "frozenset",
    "collections.abc.Set": "set",
    "collections.abc.MutableSet": "set",
    "typing.List": "list",
    "typing.Dict": "dict",
    "typing.Tuple": "tuple",
    "typing.Mapping": "dict",
    "typing.MutableMapping": "dict",
    "collections.abc.Mapping": "dict",
    "collections.abc.MutableMapping": "dict",
    "collections.defaultdict": "dict",
    "collections.OrderedDict": "dict",
    "collections.Counter": "dict",
    "collections.deque": "list",
    **{
        f"{module}.{name}": "list"
        for module in ("typing", "collections.abc")
        for name in (
            "Sequence",
            "MutableSequence",
            "Iterable",
            "Iterator",
            "Collection",
            "Generator",
        )
    },
}
"""Types that behave alike here."""

SETS = frozenset({"set", "frozenset"})
MUTABLE = frozenset({"list", "set", "dict"})
# Their hash is computed from a number, and the same in every process.
_NUMBERS = frozenset(
    {"int", "float", "bool", "complex", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"}
)
# Their hash comes from text or bytes, and is salted by PYTHONHASHSEED.
_BY_CHANCE = frozenset(
    {"str", "bytes", "datetime.datetime", "datetime.date", "datetime.time", "pathlib.Path"}
)
_ENUMS = frozenset({"enum.Enum", "enum.StrEnum", "enum.Flag"})


def canonical(name: str) -> str:
    """The name of a type under which this module knows it."""
    return _SAME_TYPE.get(name, name)


def element(value: Value) -> Value:
    """The value of an element in an iteration."""
    if not isinstance(value, Object):
        return None
    if value.builtin == "str":
        return TEXT
    if value.builtin == "bytes":
        return NUMBER
    if not value.arguments:
        return None
    # A tuple has a type for each place. Only where all are the same, iteration has one type.
    if value.builtin == "tuple" and len(set(value.arguments)) > 1:
        return None
    return value.arguments[0]


def one_of(values: list[Value]) -> Value:
    """A value that stands for all of them.

    It is the first that hashes by chance, because the lint reports the worst case. Without such a
    value it is the value of all, if they are equal.
    """
    for value in values:
        if hashes_by_chance(value):
            return value
    if not values or any(value != values[0] for value in values):
        return None
    return values[0]


def is_set(value: Value) -> bool:
    """Whether a value is a set, of any elements."""
    return isinstance(value, Object) and value.builtin in SETS


def hashes_by_chance(value: Value) -> bool:
    """Whether the hash of a value is known to differ between processes.

    A set of such values has another order in each process.
    """
    if not isinstance(value, Object):
        return False
    if value.builtin == "tuple":
        return any(hashes_by_chance(argument) for argument in value.arguments)
    if isinstance(value.type, Class):
        return _class_hashes_by_chance(value.type)
    return value.builtin in _BY_CHANCE


def is_number(value: Value) -> bool:
    """Whether its hash is the same in every process."""
    return isinstance(value, Object) and value.builtin in _NUMBERS


def _class_hashes_by_chance(owner: Class) -> bool:
    # Members of enums hash by their name, which is a string. The hash of other objects comes from
    # their address or from a `__hash__` that is not evaluated here.
    bases = [owner.scope.evaluate(base) for base in owner.node.bases]
    return any(isinstance(base, External) and base.name in _ENUMS for base in bases)


def name_of(value: Value) -> str:
    """A type in words: `str`, `Colour objects`."""
    if not isinstance(value, Object):
        return "unknown objects"
    if isinstance(value.type, Class):
        return f"{value.type.node.name} objects"
    if value.builtin == "str":
        return "strings"
    if value.builtin == "tuple":
        return "tuples with strings"
    return f"{value.builtin} objects"
