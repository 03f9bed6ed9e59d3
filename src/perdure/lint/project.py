"""The named files, and the files that they import.

Files are found by the rules of Python's import, but nothing is imported.
"""

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
        """Begin without files. Each file is read when it is first needed."""
        self.unreadable: dict[Path, Unreadable] = {}
        self.scopes: dict[Source, ModuleScope] = {}
        self._sources: dict[Path, Source | None] = {}
        self._found: dict[tuple[Path, str], Path | None] = {}

    def source(self, path: Path) -> Source | None:
        """The parsed file. None for a file that is no Python, which `unreadable` then has."""
        if path not in self._sources:
            try:
                self._sources[path] = Source.read(path)
            except Unreadable as error:
                self.unreadable[path] = error
                self._sources[path] = None
        return self._sources[path]

    def unreadable_so_far(self) -> set[Path]:
        """The files that could not be read so far."""
        return set(self.unreadable)

    def forget_unreadable_but(self, known: set[Path]) -> None:
        """Forget the errors of all other files."""
        self.unreadable = {path: error for path, error in self.unreadable.items() if path in known}

    def note_unreadable(self, path: Path, error: Unreadable) -> None:
        """Note a file that was parsed, but cannot be walked."""
        self.unreadable[path] = error

    def imported(self, importer: Source, module: str, level: int = 0) -> Source | None:
        """The file of a module that another file imports. None for a module of other projects."""
        if level:
            folder = importer.path.parent
            for _ in range(level - 1):
                folder = folder.parent
            path = _module_file(folder, module)
        elif module.partition(".")[0] in {"perdure", *sys.stdlib_module_names}:
            # The catalogue knows these by name. A file of the project does not hide them.
            return None
        else:
            path = self._find(importer, module)
        if path is None:
            return None
        return self.source(path)

    def _find(self, importer: Source, module: str) -> Path | None:
        key = (importer.package, module)
        if key not in self._found:
            self._found[key] = _first_file(importer, module)
        return self._found[key]


def _first_file(importer: Source, module: str) -> Path | None:
    for root in _roots(importer):
        path = _module_file(root, module)
        if path is not None:
            return path
    return None


def _roots(importer: Source) -> Iterator[Path]:
    """The folders in which absolute imports are looked up, nearest first.

    They are the folder beside the package or the program, and those above it up to the root of the
    project.
    """
    folder = importer.package
    if not is_packaged(importer.path):
        yield folder
    while folder.parent != folder:
        if any((folder / mark).exists() for mark in _ROOTS):
            return
        folder = folder.parent
        yield folder
        yield folder / "src"


def _module_file(folder: Path, module: str) -> Path | None:
    base = folder
    if module:  # `from . import x` names no module
        base = folder.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if path.is_file():
            return path
    return None


# ---------------------------------------------------------------- the named files


def named_files(given: str) -> list[Path]:
    """The Python files of a path or a dotted module name, sorted. All links are followed.

    Raises:
        UsageError: there is no such file, folder or module, or it has no Python files.
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
    if not _is_module_name(given):
        msg = f"there is no file {given} (looked in {Path.cwd()}); check the path"
        raise UsageError(msg)
    return _module_files(given)


def _is_module_name(given: str) -> bool:
    if Path(given).suffix in {".py", ".pyi"}:
        return False
    return all(part.isidentifier() for part in given.split("."))


def _module_files(name: str) -> list[Path]:
    """The file of a module, or all files of a package."""
    places = [str(Path.cwd()), str(Path.cwd() / "src"), *sys.path]
    parts = name.split(".")
    for number, part in enumerate(parts, 1):
        # `find_spec` of importlib would import the packages on the way. This one only looks.
        spec = PathFinder.find_spec(part, places)
        if spec is None or (spec.origin is None and spec.submodule_search_locations is None):
            missing = ".".join(parts[:number])
            msg = f"there is no file, folder or module {missing!r} in {Path.cwd()}"
            raise UsageError(msg)
        if spec.submodule_search_locations is None:
            # A module has no parts below it, and one in C has no source.
            if number < len(parts) or not str(spec.origin).endswith(".py"):
                msg = f"{name!r} is no Python file or package that could be read; name its file"
                raise UsageError(msg)
            return [Path(str(spec.origin)).resolve()]
        places = list(spec.submodule_search_locations)[:1]
    return sorted(_walk(Path(places[0]).resolve()))


def _walk(top: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        # `os.walk` goes into the folders that this list has, in its order.
        folders[:] = sorted(name for name in folders if not _is_skipped(Path(folder, name)))
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def _is_skipped(folder: Path) -> bool:
    if folder.name.startswith(".") or folder.name in _SKIPPED:
        return True
    return (folder / "pyvenv.cfg").exists()  # a virtual environment, of any name


def siblings(path: Path) -> list[Path]:
    """The files whose code may call into this one. They share its package or its folder."""
    if is_packaged(path):
        return sorted(_walk(package_of(path)))
    return sorted(path.parent.glob("*.py"))


def is_of_interest(path: Path) -> bool:
    """Whether a file could define a workflow or ignore a finding.

    Other files are read only when a workflow imports them, because parsing a whole tree is slow.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return True  # the later read of the file reports the error
    return any(mark in data for mark in _MARKS)
