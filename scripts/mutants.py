"""Mutation testing of the kernel: break one thing, run the tests, see whether a test notices.

`make mutants` runs it. The same SEED, FILES and COUNT give the same sample. Each mutant is a copy
of src/ in which one expression or statement differs. All tests of TESTS run once against the
unbroken copy, and what they call is recorded (reach.py). Those that call the function of a mutant
run against it, the quick ones first, up to the first failure (warm.py). A mutant that no test
notices survives. It is listed with its diff, and the exit code is 1 when more than --share percent
survive.

    python scripts/mutants.py --count 40 --seed 7
    python scripts/mutants.py --files src/perdure/kernel/execution/match.py --count 0

The second line runs all mutants of one file. A survivor is either a test that is missing or an
equivalent mutant: a change that cannot be observed.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import math
import os
import py_compile
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from breaking import Mutant, mutants_of
from reach import UNRECORDED, Chosen, Reach, Recorder, file_of, marked
from warm import Judge, Outcome, Work, outcome_of

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
class Judged:
    """A mutant and its outcome."""

    mutant: Mutant
    outcome: str
    seconds: float
    by: str

    def told(self) -> str:
        """One line, and the diff of one that survived."""
        place = f"{self.mutant.path}:{self.mutant.line}"
        line = f"{place}: {self.outcome} after {self.seconds:.1f} s {self.by}".rstrip()
        if self.outcome != "survived":
            return line
        return f"{line}\n{self.mutant.diff((ROOT / self.mutant.path).read_text(encoding='utf-8'))}"


def run_tests(
    copy: Path, options: Sequence[str], plugin: object, limit_seconds: float
) -> tuple[str, str]:
    """Run pytest against a copy of src/: the outcome, and the test that failed."""
    log = copy / "log.txt"
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os._exit(_in_child(copy, options, plugin, log))
    outcome = outcome_of(child, limit_seconds)
    if outcome == "late":
        return outcome, ""
    failed = [
        line
        for line in log.read_text(errors="replace").splitlines()
        if line.startswith(("FAILED", "ERROR"))
    ]
    by = failed[0] if failed else ""
    return outcome, by


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
    # By default Python takes a compiled file whose second of change and size fit. Those of a mutant
    # can be those of the original.
    by_text = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(copy / "src", quiet=2, invalidation_mode=by_text)
    return copy


class Judges:
    """Judges mutants in a copy of src/, and tells each outcome as soon as it is known."""

    def __init__(self, copy: Path, reach: Reach, deadline: float) -> None:
        """No mutant begins after the deadline."""
        self._copy = copy
        self._reach = reach
        self._deadline = deadline
        self._told = copy / "told.txt"
        self._out = os.fdopen(os.dup(1), "w")

    @property
    def outcomes(self) -> list[str]:
        """The outcomes so far."""
        return self._told.read_text(encoding="utf-8").split() if self._told.exists() else []

    def judge(self, mutants: Sequence[Mutant]) -> None:
        """Judge those inside functions in forks of one session, and each other one in its own."""
        inside = [mutant for mutant in mutants if mutant.function]
        if inside:
            self._judge_warm(inside)
        for mutant in mutants:
            if not mutant.function and time.monotonic() < self._deadline:
                self._judge_cold(mutant)

    def _tell(self, result: Judged) -> None:
        with self._told.open("a", encoding="utf-8") as told:
            told.write(f"{result.outcome}\n")
        print(result.told(), file=self._out, flush=True)

    def _work(self, mutant: Mutant) -> Work:
        target = self._copy / mutant.path
        seconds = self._reach.seconds
        function = f"{mutant.path}:{mutant.function}" if mutant.function else None
        limits = {test: 10 + 6 * seconds[test] for test in self._reach.tests_for(function)}
        limit_seconds = 60 + 4 * sum(seconds[test] for test in limits)
        return Work(
            target, mutant.applied(target.read_text(encoding="utf-8")), limits, limit_seconds
        )

    def _judge_warm(self, mutants: Sequence[Mutant]) -> None:
        works = [self._work(mutant) for mutant in mutants]

        def judged(number: int, outcome: Outcome, seconds: float) -> bool:
            self._tell(Judged(mutants[number], outcome[0], seconds, outcome[1]))
            return time.monotonic() < self._deadline

        files = sorted({file_of(test) for work in works for test in work.tests})
        judge = Judge(self._copy, works, judged)
        outcome, _ = run_tests(self._copy, files, judge, limit_seconds=math.inf)
        if outcome != "survived":
            print((self._copy / "log.txt").read_text(errors="replace"))
            raise SystemExit(2)

    def _judge_cold(self, mutant: Mutant) -> None:
        started = time.monotonic()
        work = self._work(mutant)
        text = work.target.read_text(encoding="utf-8")
        work.target.write_text(work.text, encoding="utf-8")
        options = ["-x", *dict.fromkeys(map(file_of, work.tests))]
        try:
            outcome, by = run_tests(self._copy, options, Chosen(work.tests), work.limit_seconds)
        finally:
            work.target.write_text(text, encoding="utf-8")
        self._tell(Judged(mutant, outcome, time.monotonic() - started, by))


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
    for name in ("apsw", "asyncio", "msgspec"):
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        reach = recorded(Path(folder), tests, files)
        sample = sampled(files, asked.count, asked.seed)
        judges = Judges(copied(Path(folder)), reach, time.monotonic() + asked.seconds)
        judges.judge(sample)
        outcomes = judges.outcomes
    survived = outcomes.count("survived")
    share = 100 * survived / max(1, len(outcomes))
    print(
        f"{len(outcomes)} of {len(sample)} mutants ran, seed {asked.seed}:"
        f" {survived} survived ({share:.1f} %)"
    )
    return int(share > asked.share or not outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
