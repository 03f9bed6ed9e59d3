"""One file: its tree, its package and its `# perdure: ignore[...]` comments."""

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
    """A file that is no Python, with the place of the first error and the reason."""

    def __init__(self, line: int, column: int, why: str) -> None:
        """Lines and columns count from 1, as in editors."""
        super().__init__(why)
        self.line = line
        self.column = column


@dataclass(slots=True)
class Ignore:
    """One comment: its place, the codes that it names, and the codes that ignored a finding."""

    line: int
    column: int
    codes: tuple[str, ...]
    used: set[str] = field(default_factory=set[str])

    @property
    def unknown(self) -> list[str]:
        """Codes that no rule has."""
        return [code for code in self.codes if code not in RULES]

    def covers(self, line: int, code: str) -> bool:
        """Whether the comment ignores this code in this line. It remembers that it was used."""
        if line != self.line or code not in self.codes:
            return False
        self.used.add(code)
        return True


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
        except (ValueError, RecursionError, MemoryError) as error:
            # NUL bytes are a ValueError. The others mean deeper nesting than the parser can follow.
            raise Unreadable(1, 1, f"is not Python: {error}") from error

    @cached_property
    def package(self) -> Path:
        """The folder of the file's top-level package, as `package_of` finds it."""
        return package_of(self.path)

    @cached_property
    def imports_perdure(self) -> bool:
        """Whether the file imports Perdure or a part of it, at any place."""
        for node in ast.walk(self.tree):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            for module in modules:
                if _top(module) == "perdure":
                    return True
        return False

    @cached_property
    def ignores(self) -> list[Ignore]:
        """The comments that ask the lint to ignore findings, in the order of the file."""
        # Tokenizing costs more than parsing, and few files have such a comment.
        if "perdure:" not in self.text:
            return []
        found: list[Ignore] = []
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type != tokenize.COMMENT:
                continue
            named = codes_in(token.string)
            if named is not None:
                line, start = token.start
                offset, codes = named
                found.append(Ignore(line, start + offset + 1, codes))
        return found

    def column(self, line: int, offset: int) -> int:
        """The column of an offset, in characters from 1. The parser counts bytes of UTF-8."""
        lines = self._lines
        text = ""
        if line <= len(lines):
            text = lines[line - 1]
        return len(text.encode()[:offset].decode(errors="replace")) + 1

    @cached_property
    def _lines(self) -> list[str]:
        # `splitlines` would also split at form feeds, at which the parser counts no line.
        return re.split(r"\r\n|\r|\n", self.text)


def package_of(path: Path) -> Path:
    """The folder of the file's top-level package. A file outside of packages has its own folder."""
    folder = path.parent
    if not is_packaged(path):
        return folder
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder


def is_packaged(path: Path) -> bool:
    """Whether a file is a part of a package, and not a single program."""
    return (path.parent / "__init__.py").is_file()


def _top(name: str) -> str:
    return name.partition(".")[0]
