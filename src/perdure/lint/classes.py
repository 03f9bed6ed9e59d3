"""Methods and attributes of classes of the project."""

from __future__ import annotations

import ast

from perdure.lint.values import Class, External, Function, FunctionNode, Value


def class_attribute(owner: Class, name: str, *, instance: bool, depth: int = 0) -> Value:
    """The value of an attribute, looked up on a class or on an object of the class."""
    for node in owner.node.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() if node.name == name:
                method = Function(node, owner.scope, owner)
                if instance and is_property(node):
                    return result_of(method)
                return method
            case ast.AnnAssign(target=ast.Name(id=found)) if found == name:
                return owner.scope.annotated(node.annotation)
            case ast.Assign(targets=[ast.Name(id=found)]) if found == name:
                return owner.scope.evaluate(node.value)
            case _:
                continue
    if depth >= _BASES_DEPTH:
        return None
    for base in owner.node.bases:
        match owner.scope.evaluate(base):
            # The source of other projects is not read, so any attribute may come from there.
            case External(name=dotted) if dotted != "object":
                return External(f"{dotted}.{name}")
            case Class() as parent:
                found_above = class_attribute(parent, name, instance=instance, depth=depth + 1)
                if found_above is not None:
                    return found_above
            case _:
                continue
    return None


# Levels of base classes that are followed. A class may, by mistake, be its own base.
_BASES_DEPTH = 10


def find_method(owner: Class, name: str) -> Function | None:
    """A method of a class, or of the classes above it."""
    found = class_attribute(owner, name, instance=False)
    if isinstance(found, Function):
        return found
    return None


def is_property(node: FunctionNode) -> bool:
    """Whether a method is read like an attribute."""
    for decorator in node.decorator_list:
        match decorator:
            case ast.Name(id="property" | "cached_property"):
                return True
            case ast.Attribute(attr="cached_property"):
                return True
            case _:
                continue
    return False


def result_of(function: Function) -> Value:
    """The value that a function returns, according to its annotation."""
    return function.scope.annotated(function.node.returns)
