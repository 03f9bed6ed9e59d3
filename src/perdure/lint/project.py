"""The files that were named, and those that they import, found as Python would find them, without importing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.errors import UsageError
from perdure.lint.source import Source, Unreadable, is_packaged, package_of

if TYPE_CHECKING:
    from perdure.lint.scope import ModuleScope

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})
_MARKS = (b"workflow", b"perdure: ignore")
_ROOTS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")


class Project:
    """Every file that was read, by its path."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self.unreadable: dict[Path, Unreadable] = {}
        self.scopes: dict[Source, ModuleScope] = {}
        self._sources: dict[Path, Source | None] = {}
        self._found: dict[tuple[Path, str], Path | None] = {}

    def source(self, path: Path) -> Source | None:
        """The file, parsed; None for one that is no Python, which is noted."""
        if path not in self._sources:
            try:
                self._sources[path] = Source.read(path)
            except Unreadable as error:
                self.unreadable[path] = error
                self._sources[path] = None
        return self._sources[path]

    def imported(self, importer: Source, module: str, level: int = 0) -> Source | None:
        """The file of a module that another one imports; None for what is not of this project."""
        if level:
            folder = importer.path.parent
            for _ in range(level - 1):
                folder = folder.parent
            path = _module_file(folder, module)
        elif module.partition(".")[0] in {"perdure", *sys.stdlib_module_names}:
            return None
        else:
            path = self._find(importer, module)
        return self.source(path) if path is not None else None

    def _find(self, importer: Source, module: str) -> Path | None:
        key = (importer.package, module)
        if key not in self._found:
            places = (_module_file(root, module) for root in _roots(importer))
            self._found[key] = next((path for path in places if path is not None), None)
        return self._found[key]


def _roots(importer: Source) -> Iterator[Path]:
    """Where absolute imports may lead: beside the package, beside the program, and up to the root of the project."""
    folder = importer.package
    if not is_packaged(importer.path):
        yield folder
    while True:
        if any((folder / mark).exists() for mark in _ROOTS) or folder.parent == folder:
            return
        folder = folder.parent
        yield folder
        yield folder / "src"


def _module_file(folder: Path, module: str) -> Path | None:
    base = folder.joinpath(*module.split(".")) if module else folder
    for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if path.is_file():
            return path
    return None


# ---------------------------------------------------------------- what was named


def named_files(given: str) -> list[Path]:
    """The Python files of a path or a dotted module name, sorted, with all links followed.

    Raises:
        UsageError: there is no such file, folder or module, or it has no Python in it.
    """
    path = Path(given)
    if path.is_dir():
        found = sorted(_walk(path.resolve()))
        if not found:
            msg = f"the folder {given} has no Python files"
            raise UsageError(msg)
        return found
    if path.exists():
        return [path.resolve()]
    looks_like_path = (
        path.suffix in {".py", ".pyi"} or "/" in given or "\\" in given or given.startswith(".")
    )
    if looks_like_path or not all(part.isidentifier() for part in given.split(".")):
        msg = f"there is no file {given} (looked in {Path.cwd()}); check the path"
        raise UsageError(msg)
    return _module_files(given)


def _module_files(name: str) -> list[Path]:
    """The files of a module: a package brings all that is in it."""
    places = [str(Path.cwd()), str(Path.cwd() / "src"), *sys.path]
    folder: Path | None = None
    for number, part in enumerate(name.split("."), 1):
        spec = PathFinder.find_spec(part, places if folder is None else [str(folder)])
        if spec is None or (spec.origin is None and spec.submodule_search_locations is None):
            msg = f"there is no file, folder or module {'.'.join(name.split('.')[:number])!r} in {Path.cwd()}"
            raise UsageError(msg)
        if spec.submodule_search_locations is None:
            if number < len(name.split(".")) or not str(spec.origin).endswith(".py"):
                msg = f"{name!r} is no Python file or package that could be read; name its file"
                raise UsageError(msg)
            return [Path(str(spec.origin)).resolve()]
        folder = Path(next(iter(spec.submodule_search_locations)))
    assert folder is not None
    return sorted(_walk(folder.resolve()))


def _walk(top: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if not _is_skipped(Path(folder, name)))
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def _is_skipped(folder: Path) -> bool:
    return (
        folder.name.startswith(".") or folder.name in _SKIPPED or (folder / "pyvenv.cfg").exists()
    )


def siblings(path: Path) -> list[Path]:
    """The files whose code may call into this one: those of its package, or of its folder."""
    return (
        sorted(_walk(package_of(path))) if is_packaged(path) else sorted(path.parent.glob("*.py"))
    )


def is_of_interest(path: Path) -> bool:
    """Whether a file could define a workflow or ignore a finding; all others are read when they are imported."""
    try:
        data = path.read_bytes()
    except OSError:
        return True  # it is reported when it is read
    return any(mark in data for mark in _MARKS)
