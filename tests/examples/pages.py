"""Pages as sessions: what a page shows is written, run and compared, in the order of the page, in one folder.

- ` ```python title="shop.py" ` (any language with a title) is a file; it is written.
- ` ```python ` is a program; it is run, and must print something.
- ` ```bash ` are commands; they are run.
- ` ```console ` is a session: `$ ` begins a command, the rest is what it prints. What may differ from run to run
  (times, process numbers, bars, places, widths) is not compared; `...` or `…` stands for any words. A command
  that ends with `&` stays in the background. Commands that only read are repeated until they print what is shown.
- `<!-- not run: REASON -->` above a block says why it is not run. Commands in it must exist, Python must compile.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
RUN = ("python", "bash", "console", "sh", "shell", "pycon", "py")
"""Languages whose blocks are run, or say why not."""

FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n+)?"
    r"^(?P<fence>`{3,})(?P<language>[\w-]*)(?P<rest>[^\n`]*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
READS = re.compile(r"(?:cat|ls|perdure (?:ls|show|history))\b")
OF_THE_SHELL = re.compile(r"\[\d+\][+-]? |bash: line \d+: +\d+ ")
WAIT_S = 30.0


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match["rest"])
        line = text.count("\n", 0, match.start("fence")) + 1
        reason = match["reason"]
        found.append(
            Block(page, line, match["language"], title and title[1], match["text"], reason)
        )
    return found


@dataclass(frozen=True)
class Step:
    """A command, and what it prints according to the page."""

    command: str
    shown: str = ""


def steps_of(block: Block) -> list[Step]:
    """The commands of a block."""
    text = block.text.replace("\\\n", " ")
    if block.language != "console" or not re.search(r"^\$ ", text, re.MULTILINE):
        return [
            Step(line) for line in text.splitlines() if line.strip() and not line.startswith("#")
        ]
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:].partition("  # ")[0].strip()))
        elif line.strip():
            assert steps, f"{block}: output before the first command"
            steps[-1] = Step(steps[-1].command, f"{steps[-1].shown}{line}\n")
    return steps


VARYING = [
    (r"\x1b\[[0-9;?]*[a-zA-Z]", ""),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "DATE"),
    (r"\b\d+(\.\d+)? ?(µs|ms|s|min|h|d)\b", "TIME"),
    (r"\b(process|pid) \d+", r"\1 N"),
    (r"\b(node \w+)-\d+", r"\1-N"),
    (r"\b[0-9a-f]{8,32}\b", "HEX"),
    (r"[━─╸╺╴╶█▏▎▍▌▋▊▉]+|=+", " "),
]
"""What differs from run to run, and what it is compared as."""


def words(text: str, folder: Path) -> list[str]:
    """The words of an output, without what may differ; how they are broken into lines depends on the terminal."""
    text = text.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
    for pattern, instead in VARYING:
        text = re.sub(pattern, instead, text)
    return text.split()


def fits(shown: str, printed: str, folder: Path) -> bool:
    """Whether a command printed what the page shows."""
    pattern = "".join(
        r"(?:\S+ )*" if word in {"...", "…"} else f"{re.escape(word)} "
        for word in words(shown, folder)
    )
    return re.fullmatch(pattern, "".join(f"{word} " for word in words(printed, folder))) is not None


class Session:
    """A shell in a folder, with `perdure` and `python` on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[int] = []
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in {"LANG", "LC_ALL", "PYTHONPATH", "TMPDIR"}
        }
        path = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        )
        own = {
            "PATH": path,
            "HOME": str(folder),
            "NO_COLOR": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",  # what a program prints is in the order of a terminal
            "TERM": "dumb",
        }
        own["PYTEST_PLUGINS"] = (
            "perdure_pytest"  # by its entry point, too, if the clone was installed since it has one
        )
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=kept | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._do(
            "set -m; trap 'kill -9 $(jobs -p); wait' EXIT"
        )  # also when the tests are killed, and its input ends

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for job in self.jobs:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(job, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.communicate()

    def _do(self, command: str) -> tuple[str, int]:
        """Run a command; what it prints, and its exit code."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        if ended := re.fullmatch(r"kill .*(%[\d%])", command):
            command = f"{command} && {{ wait {ended[1]}; jobs; true; }} >/dev/null 2>&1"  # as when people look again
        self.shell.stdin.write(f"{command}\nprintf '\\n@@ %d\\n' $?\n")
        self.shell.stdin.flush()
        lines: list[str] = []
        for line in self.shell.stdout:
            if line.startswith("@@ "):
                return "".join(text for text in lines if not OF_THE_SHELL.match(text)), int(
                    line[3:]
                )
            lines.append(line)
        raise AssertionError(f"the shell ended in {command!r}: {lines}")

    def run_program(self, name: str, where: object) -> None:
        """Run a program, which must end well and print something."""
        printed, code = self._do(f"python {name}")
        assert code == 0, f"{where}, exit code {code}\n{printed}"
        assert printed.strip(), f"{where}: a program on a page shows something"

    def run(self, step: Step, where: object) -> None:
        """Run a step and compare what it prints."""
        if step.command.endswith("&"):
            self._start(step, where)
            return
        deadline = time.monotonic() + WAIT_S
        while True:
            printed, code = self._do(step.command)
            matches = not step.shown or fits(step.shown, printed, self.folder)
            refused = step.shown.startswith("perdure: ")
            if matches and (code == 0 or refused):
                return
            if not READS.match(step.command) or time.monotonic() > deadline:
                raise AssertionError(self._difference(step, printed, f"{where}, exit code {code}"))
            time.sleep(0.05)

    def _start(self, step: Step, where: object) -> None:
        log = self.folder / f".job-{len(self.jobs)}"
        log.touch()
        printed, _ = self._do(
            f"{step.command.removesuffix('&')} >{shlex.quote(str(log))} 2>&1 &\necho $!"
        )
        self.jobs.append(next(int(line) for line in reversed(printed.split()) if line.isdecimal()))
        deadline = time.monotonic() + WAIT_S
        while not fits(f"{step.shown}\n...", printed := log.read_text(), self.folder):
            assert time.monotonic() < deadline, self._difference(step, printed, where)
            time.sleep(0.02)

    def _difference(self, step: Step, printed: str, where: object) -> str:
        return f"{where}\n$ {step.command}\n--- printed\n{printed.strip()}\n--- shown\n{step.shown.strip()}"


def run_page(page: Path, folder: Path) -> Iterator[Block]:
    """Run the blocks of a page one after another; yields each when it is done."""
    blocks = [block for block in blocks_of(page) if block.reason is None]
    with Session(folder) as session:
        for number, block in enumerate(blocks):
            if block.title is not None:
                (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                (folder / f"block_{number}.py").write_text(block.text, encoding="utf-8")
                session.run_program(f"block_{number}.py", block)
            elif block.language in RUN:
                for step in steps_of(block):
                    session.run(step, block)
            yield block
