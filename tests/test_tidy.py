"""Style as a test: what no linter checks, and what two people would otherwise argue about.

Each rule is a function from a file to complaints. `test_tidy` runs a rule over the repository; `test_each_rule_bites`
shows each one a file that breaks it, because a rule that matches nothing would pass for ever.
"""

from __future__ import annotations

import ast
import io
import re
import shutil
import subprocess
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent

MODULE_LINES = 600
FUNCTION_LINES = 70
LINE_WIDTH = 120

# A module named after no noun collects what belongs elsewhere.
MODULE_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}

# One letter of each is in brackets, so that this file passes its own rules.
UNFINISHED = re.compile(
    r"\b(?:TOD[O]|FIXM[E]|XX[X]|HAC[K])\b|raise NotImplementedErro[r](?!  # how a hook of msgspec)"
)
WORKPLACE = re.compile(
    r"(?<![\w.~-])/(?:home|root|Users|work|workspace)/"
    r"|\b(?:pyp[i]|pythonhoste[d]|npmj[s]|yarnpk[g]|ghc[r]|gc[r]|qua[y]|docke[r])\.(?:org|com|io)\b"
    r"|\b(?:artifactor[y]|jfro[g]|pkg\.de[v])[./]"
)

# One word per thing (ARCHITECTURE.md). To the left: a word in a name that we define; to the right: what we say.
SYNONYMS = {
    "orchestration": "workflow",
    "orchestrations": "workflows",
    "orchestrator": "workflow",
    "orchestrators": "workflows",
    "actor": "entity",
    "actors": "entities",
    "grain": "entity",
    "grains": "entities",
}

# The same for docstrings and comments, as patterns. A letter is a dead letter, a message that nobody took.
PROSE = {
    r"mails?": "message",
    r"set(?:s|ting)?\s(?:\w+\s)?aside": "suspended",
}
PROSE_NAMES = {"aside": "suspended"}

DEFINED_BY_ASYNCIO = {"add_signal_handler", "remove_signal_handler"}

# What the kernel may not import: a clock, chance, threads, the outside world. To the right: the types it may name.
IMPURE = {
    "multiprocessing": set(),
    "os": set(),
    "random": {"Random"},
    "secrets": set(),
    "socket": set(),
    "sqlite3": set(),
    "subprocess": set(),
    "threading": set(),
    "time": set(),
    "uuid": {"UUID"},
}

# Modules that users, adapters or the command line import by name, so that nothing in the package has to.
ENTRANCES = re.compile(
    r"perdure(\.\w+)?|perdure\.(cli|integrations|testing|ports|store|cluster|transport|process|server)(\.\w+)*"
    r"|.*\.__main__"
)


@dataclass(frozen=True)
class File:
    """A file of the repository: where it is, and what it says."""

    path: PurePosixPath
    text: str

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @property
    def module(self) -> str:
        """The dotted name, for a file under src/."""
        parts = self.path.relative_to("src").with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def in_package(self) -> bool:
        return self.path.is_relative_to("src/perdure") and self.path.suffix == ".py"


type_of_function = (ast.FunctionDef, ast.AsyncFunctionDef)
Rule = Callable[[File], Iterator[str]]


def at(file: File, line: int, what: str) -> str:
    return f"{file.path}:{line}: {what}"


def long_module(file: File) -> Iterator[str]:
    # It is generated from the asynchronous classes, which are in several modules.
    is_generated = file.path == PurePosixPath("src/perdure/sync/facade.py")
    if file.path.suffix == ".py" and len(file.lines) > MODULE_LINES and not is_generated:
        yield at(
            file, MODULE_LINES, f"{len(file.lines)} lines, at most {MODULE_LINES}: split it by noun"
        )


def long_function(file: File) -> Iterator[str]:
    if file.path.suffix != ".py":
        return
    for node in ast.walk(file.tree):
        if isinstance(node, type_of_function):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield at(
                    file, node.lineno, f"{node.name} has {length} lines, at most {FUNCTION_LINES}"
                )


def long_line(file: File) -> Iterator[str]:
    if file.path.suffix not in {".py", ".sql", ".toml", ".sh"}:
        return
    for number, line in enumerate(file.lines, 1):
        if len(line) > LINE_WIDTH:
            yield at(file, number, f"{len(line)} columns, at most {LINE_WIDTH}")


def module_name(file: File) -> Iterator[str]:
    if file.path.suffix == ".py":
        for part in file.path.with_suffix("").parts:
            if part.lstrip("_") in MODULE_NAMES:
                yield at(file, 1, f"'{part}' names no thing: say what the module is about")


def unfinished(file: File) -> Iterator[str]:
    if file.path.suffix in {".py", ".sql"}:
        for match in UNFINISHED.finditer(file.text):
            line = file.text.count("\n", 0, match.start()) + 1
            yield at(
                file, line, f"{match.group().split()[0]!r}: finish it, or record it as an issue"
            )


def swallowed_error(file: File) -> Iterator[str]:
    if file.path.suffix != ".py":
        return
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ExceptHandler) and all(
            isinstance(line, ast.Pass) for line in node.body
        ):
            yield at(
                file,
                node.lineno,
                "an error disappears: name it in contextlib.suppress, and say why",
            )


def workplace(file: File) -> Iterator[str]:
    for number, line in enumerate(file.lines, 1):
        if match := WORKPLACE.search(line):
            yield at(
                file,
                number,
                f"{match.group()!r} belongs to one machine: a clone must work anywhere",
            )


def titles(file: File) -> Iterator[str]:
    if file.path.suffix != ".md":
        return
    prose = re.sub(r"^(```|~~~).*?^\1", "", file.text, flags=re.MULTILINE | re.DOTALL)
    if (count := len(re.findall(r"^# \S", prose, flags=re.MULTILINE))) != 1:
        yield at(file, 1, f"{count} titles; a page has one '# title'")


def changelog(file: File) -> Iterator[str]:
    if file.path.name == "CHANGELOG.md" and "\n## [Unreleased]\n" not in file.text:
        yield at(file, 1, "no '## [Unreleased]': a change has nowhere to go")


def docstrings(file: File) -> Iterator[str]:
    if not file.in_package:
        return
    if not ast.get_docstring(file.tree):
        yield at(file, 1, "the module does not say what it is about")
    for node in file.tree.body:
        if isinstance(node, (*type_of_function, ast.ClassDef)) and not node.name.startswith("_"):
            overload = any(ast.unparse(d).endswith("overload") for d in node.decorator_list)
            if not overload and not ast.get_docstring(node):
                yield at(file, node.lineno, f"{node.name} is public and has no docstring")


def defined_names(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Every name that a module gives to something of its own: line, name, whether it is a class."""
    for node in ast.walk(tree):
        if isinstance(node, (*type_of_function, ast.ClassDef)):
            yield node.lineno, node.name, isinstance(node, ast.ClassDef)
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, False
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, False
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr, False


def vocabulary(file: File) -> Iterator[str]:
    if not file.in_package:
        return
    for line, name, is_class in defined_names(file.tree):
        words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
        for word in words:
            if word in SYNONYMS:
                yield at(file, line, f"{name}: we say {SYNONYMS[word]!r}, not {word!r}")
        if len(words) > 1 and words[0] == "signal" and name not in DEFINED_BY_ASYNCIO:
            yield at(
                file,
                line,
                f"{name}: instances are sent messages on channels; signals come from the operating system",
            )
        if is_class and "worker" in words and not {"task", "queue"} & set(words):
            yield at(
                file,
                line,
                f"{name}: a process that owns shards is a node; workers serve task queues",
            )


def prose(tree: ast.Module, text: str) -> Iterator[tuple[int, str]]:
    """Every docstring and every comment of a module: line and text. Texts below a name count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def one_word_per_thing(file: File) -> Iterator[str]:
    if not file.in_package:
        return
    for line, text in prose(file.tree, file.text):
        for pattern, word in PROSE.items():
            for match in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE):
                yield at(file, line, f"{match.group()!r}: we say {word!r}")
    for line, name, _ in defined_names(file.tree):
        words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
        if "dead" not in words:
            for word in words:
                if word in PROSE_NAMES:
                    yield at(file, line, f"{name}: we say {PROSE_NAMES[word]!r}, not {word!r}")


def pure_kernel(file: File) -> Iterator[str]:
    if not (file.in_package and file.path.is_relative_to("src/perdure/kernel")):
        return
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            impure = [alias.name for alias in node.names if alias.name.partition(".")[0] in IMPURE]
        elif (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (top := (node.module or "").partition(".")[0]) in IMPURE
        ):
            impure = [
                f"{node.module}.{alias.name}"
                for alias in node.names
                if alias.name not in IMPURE[top]
            ]
        else:
            continue
        for name in impure:
            yield at(file, node.lineno, f"the kernel imports {name}: take the value as an argument")


RULES: list[Rule] = [
    long_module,
    long_function,
    long_line,
    module_name,
    unfinished,
    swallowed_error,
    workplace,
    titles,
    changelog,
    docstrings,
    vocabulary,
    one_word_per_thing,
    pure_kernel,
]


def imported_modules(file: File, modules: set[str]) -> Iterator[str]:
    """The modules of the package that a file imports, in whatever form."""
    package = file.module if file.path.name == "__init__.py" else file.module.rpartition(".")[0]
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            parents = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (
                name
                for name in [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
                if name in modules
            )


def unused_modules(files: Iterable[File]) -> Iterator[str]:
    package = {file.module: file for file in files if file.in_package}
    used = {
        name
        for importer, file in package.items()
        for name in imported_modules(file, set(package))
        if name != importer
    }
    for name, file in package.items():
        if name not in used and not ENTRANCES.fullmatch(name) and file.path.name != "__init__.py":
            yield at(file, 1, "no module imports it and it is not public: delete it, or use it")


def repository() -> list[File]:
    """What git tracks; in a copy without git, everything that is not hidden."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout
        paths = [PurePosixPath(name) for name in listed.split("\0") if name]
    else:
        found = (path.relative_to(ROOT) for path in sorted(ROOT.rglob("*")) if path.is_file())
        paths = [PurePosixPath(path.as_posix()) for path in found if not hidden(path)]
    return [File(path, text) for path in paths if (text := text_of(ROOT / path)) is not None]


def hidden(path: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in path.parts)


def text_of(path: Path) -> str | None:
    """The text of a file, or None for one that is not text, or that a change not yet committed has removed."""
    if not path.is_file():
        return None
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return None


@pytest.fixture(scope="module")
def files() -> list[File]:
    return repository()


def report(complaints: Iterable[str]) -> None:
    if found := list(complaints):
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_tidy(rule: Rule, files: list[File]) -> None:
    report(complaint for file in files for complaint in rule(file))


def test_no_module_is_unused(files: list[File]) -> None:
    report(unused_modules(files))


BITES: list[tuple[Rule, str, str]] = [
    (long_module, "src/perdure/kernel/turn.py", "x = 1\n" * (MODULE_LINES + 1)),
    (long_function, "tests/test_turn.py", "def f() -> None:\n" + "    x = 1\n" * FUNCTION_LINES),
    (long_line, "src/perdure/store/schema.sql", "-" * (LINE_WIDTH + 1)),
    (module_name, "src/perdure/utils.py", ""),
    (module_name, "src/perdure/common/clock.py", ""),
    (unfinished, "src/perdure/app.py", "# TOD" + "O: later"),
    (unfinished, "src/perdure/app.py", "raise NotImplemented" + "Error"),
    (swallowed_error, "src/perdure/app.py", "try:\n    f()\nexcept ValueError:  # why\n    pass\n"),
    (workplace, "docs/start.md", "cd /" + "home/me/perdure"),
    (workplace, "requirements/dev.txt", "--index-url https://files.python" + "hosted.org/simple"),
    (workplace, "requirements/dev.txt", "--index-url https://arti" + "factory.example.com/api"),
    (titles, "docs/start.md", "no title\n"),
    (titles, "docs/start.md", "# One\n\n# Two\n"),
    (changelog, "CHANGELOG.md", "# Changelog\n\n## [0.1.0]\n"),
    (docstrings, "src/perdure/app.py", "x = 1\n"),
    (docstrings, "src/perdure/app.py", '"""About."""\ndef start() -> None: ...\n'),
    (vocabulary, "src/perdure/app.py", "class OrchestrationContext: ...\n"),
    (vocabulary, "src/perdure/client.py", "def signal_workflow(): ...\n"),
    (vocabulary, "src/perdure/client.py", "self.actor_id = 1\n"),
    (vocabulary, "src/perdure/node/shards.py", "class Worker: ...\n"),
    (one_word_per_thing, "src/perdure/client.py", "# the mail of a unit\n"),
    (one_word_per_thing, "src/perdure/client.py", '"""Reads the mails."""\n'),
    (one_word_per_thing, "src/perdure/client.py", 'x = 1\n"""Set it aside."""\n'),
    (one_word_per_thing, "src/perdure/client.py", "aside = 1\n"),
    (pure_kernel, "src/perdure/kernel/turn.py", "import time\n"),
    (pure_kernel, "src/perdure/kernel/turn.py", "from os.path import join\n"),
    (pure_kernel, "src/perdure/kernel/turn.py", "from uuid import UUID, uuid4\n"),
]


@pytest.mark.parametrize(
    ("rule", "path", "text"), BITES, ids=lambda value: getattr(value, "__name__", None)
)
def test_each_rule_bites(rule: Rule, path: str, text: str) -> None:
    assert list(rule(File(PurePosixPath(path), text)))


SPARES: list[tuple[Rule, str, str]] = [
    (workplace, "docs/start.md", "see https://example.com/home/page and ~/work/notes"),
    (titles, "docs/start.md", "# One\n\n```console\n# a comment\n```\n"),
    (
        vocabulary,
        "src/perdure/kernel/loop.py",
        "def add_signal_handler(sig): ...\nrefactored = 1\n",
    ),
    (
        vocabulary,
        "src/perdure/node/tasks.py",
        "class TaskWorker: ...\ndef lease(queue, worker): ...\n",
    ),
    (
        one_word_per_thing,
        "src/perdure/client.py",
        "# a dead letter, an email, a mailbox, and letters, digits\ndead_letters = set_side = 1\n",
    ),
    (
        pure_kernel,
        "src/perdure/kernel/turn.py",
        "from random import Random\nfrom uuid import UUID\nfrom .time import now\n",
    ),
    (pure_kernel, "src/perdure/node/clock.py", "import time\n"),
]


@pytest.mark.parametrize(
    ("rule", "path", "text"), SPARES, ids=lambda value: getattr(value, "__name__", None)
)
def test_no_rule_bites_what_is_right(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(File(PurePosixPath(path), text)))


def test_every_rule_is_shown_to_bite() -> None:
    assert {rule for rule, _, _ in BITES} == set(RULES)


def test_an_unused_module_is_found() -> None:
    sources = {
        "src/perdure/__init__.py": "from perdure import app\n",
        "src/perdure/app.py": "from .kernel import turn\nimport perdure.kernel.loop\n",
        "src/perdure/kernel/__init__.py": "from .commit import Commit\n",
        "src/perdure/kernel/commit.py": "",
        "src/perdure/kernel/loop.py": "",
        "src/perdure/kernel/turn.py": "",
        "src/perdure/kernel/forgotten.py": "import perdure.kernel.forgotten\n",
        "src/perdure/store/sqlite.py": "",
    }
    complaints = list(
        unused_modules(File(PurePosixPath(path), text) for path, text in sources.items())
    )
    assert len(complaints) == 1
    assert complaints[0].startswith("src/perdure/kernel/forgotten.py:")
