"""`shop.py:checkout`, `shop.flows:app`: from typed text to an app and a workflow.

The part before the colon is a file or a dotted module, the part after it a name in that module.
Without a name the module must leave no choice: one app, or one workflow.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from perdure.activity import Activity
from perdure.app import App
from perdure.errors import UsageError
from perdure.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Target:
    """A workflow, and the app that a node must run for it."""

    app: App
    workflow: Workflow[..., Any]


def is_code(text: str) -> bool:
    """Whether a target names code (a file or a module), not a workflow by its registered name."""
    where, name = _split(text)
    return bool(name) or _is_file(where)


def find_app(text: str) -> App:
    """The app of `shop.py:app`, or the only one of `shop.py`.

    Raises:
        UsageError: there is none. The message names the apps of the module.
    """
    where, name = _split(text)
    module = _load(where)
    if not name:
        return _only_app(module, where)
    found = _attribute(module, where, name)
    if not isinstance(found, App):
        msg = f"{text} is {_kind(found)}, and a node needs an App: {_choices(where, _apps(module))}"
        raise UsageError(msg)
    return found


def find_workflow(text: str, app_name: str | None = None) -> Target:
    """The workflow of `shop.py:checkout`, or the only one of `shop.py`, and its app.

    `app_name` chooses between several apps of the module by the name of the variable.

    Raises:
        UsageError: there is none. The message names the workflows of the module.
    """
    where, name = _split(text)
    module = _load(where)
    workflows = _workflows(module)
    if not name:
        if len(workflows) != 1:
            msg = f"{where}: say which workflow: {_choices(where, workflows)}"
            raise UsageError(msg)
        name = next(iter(workflows))
    found = _attribute(module, where, name)
    if not isinstance(found, Workflow):
        msg = f"{where}:{name} is {_kind(found)}, not a workflow: {_choices(where, workflows)}"
        raise UsageError(msg)
    workflow = cast("Workflow[..., Any]", found)
    return Target(_app_of(workflow, module, where, app_name), workflow)


def _split(text: str) -> tuple[str, str]:
    where, colon, name = text.rpartition(":")
    is_path = "/" in name or "\\" in name  # the colon of C:\shop.py
    if text and (not colon or is_path):
        return text, ""
    if not where or not name:
        msg = (
            f"{text!r} names no code; write FILE:NAME or MODULE:NAME, for example shop.py:checkout"
        )
        raise UsageError(msg)
    return where, name


def _is_file(where: str) -> bool:
    if where.endswith(".py") or where.startswith("."):
        return True
    return "/" in where or "\\" in where


# ---------------------------------------------------------------- modules


def _load(where: str) -> ModuleType:
    is_file = _is_file(where)
    if is_file:
        name = _module_of(Path(where))
    else:
        name = where
        _importable(Path.cwd())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The named module or a package around it is missing, and not one that the module imports.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            msg = (
                f"there is no module {error.name!r} here ({Path.cwd()}) or installed; "
                "check the name, or name a file"
            )
            raise UsageError(msg) from error
        raise UsageError(_cannot_import(where, error)) from error
    except SystemExit as error:
        msg = f"cannot import {where}: it calls sys.exit({error.code!r}) when it is imported"
        raise UsageError(msg) from error
    except Exception as error:  # the user's module may raise anything at its import
        raise UsageError(_cannot_import(where, error)) from error
    # A file such as `queue.py` has the name of a module that Python has imported already.
    if is_file and not _same_file(module, Path(where)):
        taken = getattr(module, "__file__", None) or "Python itself"
        msg = f"{where} cannot be imported as {name!r}: that module is {taken}; rename the file"
        raise UsageError(msg)
    return module


def _module_of(path: Path) -> str:
    """The dotted name of a file in its package, whose root is put first in the import path."""
    if path.is_dir():
        msg = f"{path} is a folder; name a file in it, such as {path / 'app.py'}"
        raise UsageError(msg)
    if not path.is_file():
        msg = f"there is no file {path} (looked in {Path.cwd()}); check the path"
        raise UsageError(msg)
    if path.suffix != ".py" or not path.stem.isidentifier():
        msg = (
            f"{path} cannot be imported: a Python file is named with letters, digits and '_', "
            "and ends in .py"
        )
        raise UsageError(msg)
    path = path.resolve()
    parts = [path.stem]
    # Relative imports in the file need its packages, so the root of these is imported from.
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.insert(0, folder.name)
        folder = folder.parent
    _importable(folder)
    return ".".join(part for part in parts if part != "__init__") or path.stem


def _importable(folder: Path) -> None:
    """Put a folder first in the import path, as `python FILE` does."""
    text = str(folder)
    if sys.path[:1] != [text]:
        sys.path.insert(0, text)
    # Python remembers the content of folders, and the file may be new.
    importlib.invalidate_caches()


def _same_file(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path.resolve()


def _cannot_import(where: str, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"cannot import {where}: {error.filename}:{error.lineno}: {error.msg}"
    return (
        f"cannot import {where}: {type(error).__name__}: {error}{_place(error)}; "
        "--debug shows the traceback"
    )


def _place(error: Exception) -> str:
    """The innermost frame in the user's own files."""
    others = (sysconfig.get_path("stdlib"), str(Path(__file__).parent.parent), "<")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename
        if not file.startswith(others) and "site-packages" not in file:
            return f" (at {file}:{frame.lineno})"
    return ""


# ---------------------------------------------------------------- names in modules


def _apps(module: ModuleType) -> dict[str, App]:
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}


def _workflows(module: ModuleType) -> dict[str, Workflow[..., Any]]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Workflow)}


def _attribute(module: ModuleType, where: str, name: str) -> object:
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            there = {**_apps(module), **_workflows(module)}
            close = get_close_matches(name, there, 1)
            if close:
                hint = f"; did you mean {where}:{close[0]}?"
            else:
                hint = f": {_choices(where, there)}"
            msg = f"{where} has no {name!r}{hint}"
            raise UsageError(msg)
        found = getattr(found, part)
    return found


def _only_app(module: ModuleType, where: str) -> App:
    apps = _apps(module)
    if not apps:
        msg = f"{where}: no App is in it; make one with `app = App(...)`"
        raise UsageError(msg)
    if not _is_one(apps):
        msg = f"{where}: say which app: {_choices(where, apps)}"
        raise UsageError(msg)
    return next(iter(apps.values()))


def _is_one(apps: Mapping[str, App]) -> bool:
    """Whether all names stand for one app, which may have several in a module."""
    return len(set(map(id, apps.values()))) == 1


def _app_of(
    workflow: Workflow[..., Any], module: ModuleType, where: str, app_name: str | None
) -> App:
    """The app that has this workflow: in the module, or in the one that defines it."""
    if app_name is not None:
        app = _attribute(module, where, app_name)
        if not isinstance(app, App):
            msg = f"{where}:{app_name} is {_kind(app)}, not an App"
            raise UsageError(msg)
        if not _has(app, workflow):
            msg = (
                f"{where}:{app_name} (app {app.name!r}) "
                f"does not have the workflow {workflow.name!r}"
            )
            raise UsageError(msg)
        return app
    # The named module may only import the workflow. Then its app may be in its own module.
    home = sys.modules.get(workflow.__module__)
    for place in (module, home):
        if place is None:
            continue
        apps = {name: app for name, app in _apps(place).items() if _has(app, workflow)}
        if _is_one(apps):
            return next(iter(apps.values()))
        if apps:
            msg = (
                f"the workflow {workflow.name!r} is in several apps of {where}: {', '.join(apps)}; "
                "say which with --app"
            )
            raise UsageError(msg)
    msg = (
        f"no app in {where} has the workflow {workflow.name!r}; "
        "import the app that it was registered with, too"
    )
    raise UsageError(msg)


def _has(app: App, workflow: Workflow[..., Any]) -> bool:
    return app.find_workflow(workflow.name, workflow.version) is workflow.definition


def _kind(value: object) -> str:
    if isinstance(value, App):
        return f"the app {value.name!r}"
    if isinstance(value, Workflow):
        return f"the workflow {value.name!r}"
    if isinstance(value, Activity):
        return f"the activity {value.name!r}"
    article = "a"
    if type(value).__name__[:1].lower() in "aeiou":
        article = "an"
    return f"{article} {type(value).__name__}"


def _choices(where: str, there: Mapping[str, object]) -> str:
    names = [f"{where}:{name}" for name in there]
    if names:
        return f"it has {', '.join(names)}"
    return "it has none"
