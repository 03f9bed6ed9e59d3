"""Methods and attributes of classes of the project."""

from __future__ import annotations

import ast

from perdure.lint.values import Class, External, Function, FunctionNode, Value


def class_attribute(owner: Class, name: str, *, instance: bool, depth: int = 0) -> Value:
    """What a name of a class stands for, on the class or on an object of it."""
    for node in owner.node.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() if node.name == name:
                method = Function(node, owner.scope, owner)
                return result_of(method) if instance and is_property(node) else method
            case ast.AnnAssign(target=ast.Name(id=found)) if found == name:
                return owner.scope.annotated(node.annotation)
            case ast.Assign(targets=[ast.Name(id=found)]) if found == name:
                return owner.scope.evaluate(node.value)
            case _:
                continue
    for base in owner.node.bases if depth < _BASES_DEPTH else ():
        match owner.scope.evaluate(base):
            case External(name=dotted) if dotted != "object":
                return External(f"{dotted}.{name}")
            case Class() as parent:
                found_above = class_attribute(parent, name, instance=instance, depth=depth + 1)
                if found_above is not None:
                    return found_above
            case _:
                continue
    return None


_BASES_DEPTH = 10
"""How far base classes are followed: a class may, by mistake, be its own base."""


def find_method(owner: Class, name: str) -> Function | None:
    """A method of a class, or of the classes above it."""
    found = class_attribute(owner, name, instance=False)
    return found if isinstance(found, Function) else None


def is_property(node: FunctionNode) -> bool:
    """Whether a method is read like an attribute."""
    return any(
        (isinstance(d, ast.Name) and d.id in {"property", "cached_property"})
        or (isinstance(d, ast.Attribute) and d.attr == "cached_property")
        for d in node.decorator_list
    )


def result_of(function: Function) -> Value:
    """What a function returns, by its annotation."""
    return function.scope.annotated(function.node.returns)
