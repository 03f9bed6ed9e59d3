"""One file: its tree, where it may import from, and its `# perdure: ignore[...]` comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from perdure.lint.catalogue import RULES
from perdure.lint.comment import codes_in


class Unreadable(Exception):
    """A file that is no Python: where in it, and why."""

    def __init__(self, line: int, column: int, why: str) -> None:
        """Say it as an editor would."""
        super().__init__(why)
        self.line, self.column = line, column


@dataclass(slots=True)
class Ignore:
    """One comment: its place, the codes that it names, and those that it has been good for."""

    line: int
    column: int
    codes: tuple[str, ...]
    used: set[str] = field(default_factory=set[str])

    @property
    def unknown(self) -> list[str]:
        """Codes that no rule has."""
        return [code for code in self.codes if code not in RULES]


@dataclass(eq=False)
class Source:
    """A parsed file."""

    path: Path
    text: str
    tree: ast.Module

    @classmethod
    def read(cls, path: Path) -> Source:
        """Parse a file.

        Raises:
            Unreadable: it is not text, or not Python.
        """
        try:
            data = path.read_bytes()
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            text = data.decode(encoding)
            return cls(path, text, ast.parse(data, filename=str(path)))
        except OSError as error:
            raise Unreadable(1, 1, f"cannot be opened: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise Unreadable(
                line, 1, f"is not {error.encoding.upper()} text: {error.reason}"
            ) from error
        except SyntaxError as error:
            raise Unreadable(
                error.lineno or 1, error.offset or 1, f"is not Python: {error.msg}"
            ) from error
        except (
            ValueError,
            RecursionError,
            MemoryError,
        ) as error:  # NUL bytes; nested deeper than the parser can go
            raise Unreadable(1, 1, f"is not Python: {error}") from error

    @cached_property
    def package(self) -> Path:
        """The folder of the code that belongs together; see `package_of`."""
        return package_of(self.path)

    @cached_property
    def imports_perdure(self) -> bool:
        """Whether it imports something of Perdure, anywhere."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import) and any(
                _top(alias.name) == "perdure" for alias in node.names
            ):
                return True
            if (
                isinstance(node, ast.ImportFrom)
                and not node.level
                and _top(node.module or "") == "perdure"
            ):
                return True
        return False

    @cached_property
    def ignores(self) -> list[Ignore]:
        """Its comments that ask the lint to be silent, in order."""
        if "perdure:" not in self.text:
            return []
        found: list[Ignore] = []
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            named = codes_in(token.string) if token.type == tokenize.COMMENT else None
            if named is not None:
                found.append(Ignore(token.start[0], token.start[1] + named[0] + 1, named[1]))
        return found

    def column(self, line: int, offset: int) -> int:
        """The column, from 1 and in characters, of an offset that the parser counts in bytes of UTF-8."""
        lines = self._lines
        text = lines[line - 1] if line <= len(lines) else ""
        return len(text.encode()[:offset].decode(errors="replace")) + 1

    @cached_property
    def _lines(self) -> list[str]:
        return re.split(r"\r\n|\r|\n", self.text)


def package_of(path: Path) -> Path:
    """The folder of the top-level package that a file is in; the file's own folder if it is in none."""
    folder = path.parent
    if not is_packaged(path):
        return folder
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder


def is_packaged(path: Path) -> bool:
    """Whether a file is a part of a package, and not a program of its own."""
    return (path.parent / "__init__.py").is_file()


def _top(name: str) -> str:
    return name.partition(".")[0]
