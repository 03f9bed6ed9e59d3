"""Mutation testing of the kernel: break one thing, run the tests, see whether a test notices.

`make mutants` runs it. The same SEED, FILES and COUNT give the same sample. Each mutant is a copy
of src/ in which one expression or statement differs. All tests of TESTS run once against the
unbroken copy, and what they call is recorded (reach.py). Those that call the function of a mutant
run against it, in waves from the nearest to all, up to the first failure. A mutant that no test
notices survives. It is listed with its diff, and the exit code is 1 when more than --share percent
survive.

    python scripts/mutants.py --count 40 --seed 7
    python scripts/mutants.py --files src/perdure/kernel/execution/match.py --count 0

The second line runs all mutants of one file. A survivor is either a test that is missing or an
equivalent mutant: a change that cannot be observed.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import difflib
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from reach import UNRECORDED, Chosen, Reach, Recorder, file_of, marked

ROOT = Path(__file__).resolve().parent.parent
KERNEL = Path("src/perdure/kernel")

RECORDING_SECONDS = 1800
"""How long the tests may take while they are recorded."""

# The folders whose tests look closest at the kernel, at nodes and at stores.
TESTS = (
    "tests/kernel_loop",
    "tests/replay",
    "tests/acknowledged",
    "tests/bad_input",
    "tests/instances",
    "tests/behaviour",
    "tests/determinism",
    "tests/kit",
    "tests/workflows",
    "tests/activities",
    "tests/ownership",
    "tests/removal",
    "tests/store",
    "tests/test_recorded_histories.py",
    "tests/examples/test_pages.py::test_every_option_is_listed_with_its_default",
    "tests/examples/test_pages.py::test_every_option_of_a_store_is_listed_with_its_default",
)

# Options of a class that save memory, or that only keep mistakes out.
UNSEEN_OPTIONS = frozenset({"gc", "slots", "frozen"})

COMPARED: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
REACHED: dict[type[ast.operator], str] = {ast.Add: "-", ast.Sub: "+", ast.Mult: "//"}


@dataclass(frozen=True)
class Mutant:
    """A file with one place changed: `text[start:end]` becomes `new`.

    `function` is the line where the function around it begins, 0 outside functions.
    """

    path: Path
    line: int
    start: int
    end: int
    new: str
    function: int = 0

    def applied(self, text: str) -> str:
        """The file's text with the change in it."""
        return text[: self.start] + self.new + text[self.end :]

    def diff(self, text: str) -> str:
        """The change, as lines that were removed and added."""
        lines = difflib.unified_diff(
            text.splitlines(), self.applied(text).splitlines(), n=0, lineterm=""
        )
        return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))


class Finder(ast.NodeVisitor):
    """Collects the mutants of one file, in the order of its text."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        self.found: list[Mutant] = []
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line.encode()))
        self._bytes = text.encode()
        self._function = 0

    def _place(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        # ast counts columns in bytes of UTF-8, and texts are indexed by character.
        first = self._starts[node.lineno - 1] + node.col_offset
        last = self._starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        return len(self._bytes[:first].decode()), len(self._bytes[:last].decode())

    def _add(self, node: ast.expr | ast.stmt, new: str) -> None:
        start, end = self._place(node)
        if self.text[start:end] != new:
            self.found.append(Mutant(self.path, node.lineno, start, end, new, self._function))

    def _source(self, node: ast.expr) -> str:
        start, end = self._place(node)
        return f"({self.text[start:end]})"

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A mutant is called where the innermost function around it is."""
        self._inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """The same."""
        self._inside(node)

    def _inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        around = self._function
        self._function = node.lineno
        self.generic_visit(node)
        self._function = around

    def visit_If(self, node: ast.If) -> None:
        """An `if` is turned round, unless it only serves type checkers."""
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if not isinstance(node.test, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
            self._add(node.test, f"not {self._source(node.test)}")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """The two values of a conditional expression are exchanged."""
        self._add(node.test, f"not {self._source(node.test)}")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """A comparison is turned round, or its border moves by one."""
        if len(node.ops) == 1:
            other = COMPARED[type(node.ops[0])]
            self._add(
                node, f"({self._source(node.left)} {other} {self._source(node.comparators[0])})"
            )
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """`and` becomes `or`, and the other way round."""
        other = " or " if isinstance(node.op, ast.And) else " and "
        self._add(node, f"({other.join(self._source(value) for value in node.values)})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """`not` is left out."""
        if isinstance(node.op, ast.Not):
            self._add(node, self._source(node.operand))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Plus becomes minus, times becomes divided by. Texts and unions of types stay."""
        other = REACHED.get(type(node.op))
        texts = (node.left, node.right)
        if other and not any(
            isinstance(part, (ast.JoinedStr, ast.Constant)) and _text(part) for part in texts
        ):
            self._add(node, f"({self._source(node.left)} {other} {self._source(node.right)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A number grows by one, and a truth is turned round."""
        if isinstance(node.value, bool):
            self._add(node, str(not node.value))
        elif isinstance(node.value, int):
            self._add(node, str(node.value + 1))

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call whose value is not used is left out."""
        if isinstance(node.value, ast.Call):
            self._add(node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """A write to an attribute or an item is left out."""
        if isinstance(node.targets[0], (ast.Attribute, ast.Subscript)):
            self._add(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """A running sum is not kept."""
        self._add(node, "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        """A loop ends where it went on."""
        self._add(node, "break")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Annotations have no effect, values do."""
        if node.value is not None:
            self.visit(node.value)

    def visit_keyword(self, node: ast.keyword) -> None:
        """Options that no caller can see are left alone."""
        if node.arg not in UNSEEN_OPTIONS:
            self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        """Annotations of parameters have no effect."""


def _text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


def mutants_of(path: Path, text: str) -> list[Mutant]:
    """All mutants of a file, in the order of its text."""
    finder = Finder(path, text)
    finder.visit(ast.parse(text))
    return sorted(finder.found, key=lambda mutant: (mutant.start, mutant.end, mutant.new))


def sampled(files: Sequence[Path], count: int, seed: int) -> list[Mutant]:
    """`count` mutants of the files, 0 for all, the same for the same arguments."""
    found = [
        mutant
        for path in files
        for mutant in mutants_of(path, (ROOT / path).read_text(encoding="utf-8"))
    ]
    random.Random(seed).shuffle(found)
    return found[:count] if count else found


@dataclass(frozen=True)
class Trial:
    """The rules of a run: what its tests reach, and when no more mutants begin."""

    reach: Reach
    deadline: float


@dataclass(frozen=True)
class Judged:
    """The outcome of a mutant: killed, survived, late (no end of its tests) or skipped."""

    mutant: Mutant
    outcome: str
    seconds: float
    by: str = ""


def run_waves(copy: Path, mutant: Mutant, reach: Reach) -> tuple[str, str]:
    """Run the tests of a mutant, wave by wave: the outcome, and the test that failed."""
    function = f"{mutant.path}:{mutant.function}" if mutant.function else None
    for wave in reach.waves(function):
        slowest = max(reach.seconds[test] for test in wave)
        options = [
            "-x",
            "-o",
            f"timeout={10 + 5 * slowest:.0f}",
            *dict.fromkeys(map(file_of, wave)),
        ]
        limit_seconds = 40 + 4 * sum(reach.seconds[test] for test in wave)
        outcome, by = run_tests(copy, options, Chosen(wave), limit_seconds)
        if outcome != "survived":
            return outcome, by
    return "survived", ""


def run_tests(
    copy: Path, options: Sequence[str], plugin: object, limit_seconds: float
) -> tuple[str, str]:
    """Run pytest against a copy of src/: the outcome, and the test that failed."""
    log = copy / "log.txt"
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os._exit(_in_child(copy, options, plugin, log))
    until = time.monotonic() + limit_seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "late", ""
        time.sleep(0.05)
    failed = [
        line
        for line in log.read_text(errors="replace").splitlines()
        if line.startswith(("FAILED", "ERROR"))
    ]
    by = failed[0] if failed else ""
    return ("survived" if status == 0 else "killed"), by


def _in_child(copy: Path, options: Sequence[str], plugin: object, log: Path) -> int:
    """Run pytest in this forked process, which has not imported the package yet."""
    sys.path.insert(0, str(copy / "src"))
    # Programs that tests start must import the copy as well and leave no compiled mutant there.
    os.environ |= {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        quiet = [
            "--tb=no",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            f"--basetemp={copy / 'tmp'}",
        ]
        try:
            return int(pytest.main([*quiet, *options], plugins=[plugin]))
        except BaseException:  # a mutant may break anything: whatever ends pytest has noticed it
            traceback.print_exc()
            return 3
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


def recorded(folder: Path, tests: Sequence[str], files: Sequence[Path]) -> Reach:
    """Run all tests against an unbroken copy, and record what they reach.

    Tests that fail without a mutant would "kill" every one, and the outcomes would mean nothing.
    """
    copy = copied(folder)
    written = copy / "reach.json"
    for file in files:
        target = copy / file
        target.write_text(marked(file, target.read_text(encoding="utf-8")), encoding="utf-8")
    # Programs that tests start import the marked files as well, and are not recorded.
    (copy / "src" / "sitecustomize.py").write_text(UNRECORDED, encoding="utf-8")
    recorder = Recorder(written)
    outcome, by = run_tests(copy, ["-x", *tests], recorder, RECORDING_SECONDS)
    if outcome != "survived":
        print(f"the tests fail without a mutant: {outcome} {by}. Mend them first.")
        raise SystemExit(2)
    return Reach.read(written)


def copied(folder: Path) -> Path:
    """A compiled copy of src/, so that each run compiles the mutated module alone."""
    copy = Path(tempfile.mkdtemp(dir=folder))
    for each in (folder, copy):
        each.chmod(0o755)  # some tests start programs of another user, who imports the copy
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(copy / "src", quiet=2)
    return copy


_copies: dict[int, Path] = {}
"""The copy that each working process has for itself."""


def judged(work: tuple[Mutant, Trial, Path]) -> Judged:
    """Break the copy, run the tests, mend the copy."""
    mutant, trial, folder = work
    started = time.monotonic()
    if started > trial.deadline:
        return Judged(mutant, "skipped", 0)
    copy = _copies.get(os.getpid())
    if copy is None:
        copy = _copies[os.getpid()] = copied(folder)
    target = copy / mutant.path
    text = target.read_text(encoding="utf-8")
    # Python takes a compiled file whose second of change and size fit. Those of a mutant can be
    # those of the original.
    for compiled in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
        compiled.unlink()
    target.write_text(mutant.applied(text), encoding="utf-8")
    try:
        outcome, by = run_waves(copy, mutant, trial.reach)
    finally:
        target.write_text(text, encoding="utf-8")
    return Judged(mutant, outcome, time.monotonic() - started, by)


def all_judged(mutants: Sequence[Mutant], trial: Trial, jobs: int) -> Iterator[Judged]:
    """Judge the mutants, `jobs` at a time, each as it is done."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        fork = multiprocessing.get_context("fork")
        with fork.Pool(jobs) as pool:
            work = [(mutant, trial, Path(folder)) for mutant in mutants]
            yield from pool.imap_unordered(judged, work)


def told(result: Judged) -> str:
    """One line for a mutant, and its diff if it survived."""
    mutant = result.mutant
    place = f"{mutant.path}:{mutant.line}"
    line = f"{place}: {result.outcome} after {result.seconds:.1f} s {result.by}".rstrip()
    if result.outcome != "survived":
        return line
    return f"{line}\n{mutant.diff((ROOT / mutant.path).read_text(encoding='utf-8'))}"


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Mutation testing of the kernel.")
    parser.add_argument("--files", nargs="*", type=Path, help="files to break (all of kernel/)")
    parser.add_argument(
        "--count", type=int, default=150, help="size of the sample, 0 for all (150)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1800, help="begin no mutant after this time (1800)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which sample (0)")
    parser.add_argument(
        "--share", type=float, default=5, help="percent of mutants that may survive (5)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (2)")
    parser.add_argument("--tests", nargs="*", help="tests to run")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Judge a sample, and say which mutants survived."""
    asked = arguments(argv)
    files = asked.files or sorted(path.relative_to(ROOT) for path in (ROOT / KERNEL).rglob("*.py"))
    tests = tuple(asked.tests or (test for test in TESTS if (ROOT / file_of(test)).exists()))
    os.chdir(ROOT)
    # Loaded once, so that each forked child has them. Plugins of pytest are left out, because
    # pytest rewrites them while it loads them.
    for name in ("apsw", "msgspec"):
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        reach = recorded(Path(folder), tests, files)
    sample = sampled(files, asked.count, asked.seed)
    trial = Trial(reach, time.monotonic() + asked.seconds)
    results: list[Judged] = []
    for result in all_judged(sample, trial, asked.jobs):
        results.append(result)
        if result.outcome != "skipped":
            print(told(result), flush=True)
    ran = [result for result in results if result.outcome != "skipped"]
    survived = sum(result.outcome == "survived" for result in ran)
    share = 100 * survived / max(1, len(ran))
    print(
        f"{len(ran)} of {len(sample)} mutants ran, seed {asked.seed}:"
        f" {survived} survived ({share:.1f} %)"
    )
    return int(share > asked.share or not ran)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
