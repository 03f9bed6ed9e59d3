"""`python -m benchmarks`: measure Perdure, its peers and the machine, interleaved, and write docs/benchmarks.md.

Each measurement is a process of its own with an empty folder. A round goes through the workloads and, within each,
through the engines, so that all of them meet the same moods of the machine.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, DEFAULT, ROOT, Contender, interpreter, workspace
from benchmarks.report import Run, insert, render
from benchmarks.summary import significant
from benchmarks.workloads import BY_NAME, WORKLOADS, Workload
from perdure.bench.machine import describe

PAGE = ROOT / "docs" / "benchmarks.md"
TIMEOUT_S = 400
FOLDERS = re.compile(r"(?:/[\w.-]+)+/")
"""In messages of engines: they belong to one machine, not on the page."""


class Failed(Exception):
    """A measurement gave no figures."""


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure Perdure beside its peers."
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each workload runs (default 3)"
    )
    parser.add_argument(
        "--only",
        type=names,
        default=list(BY_NAME),
        metavar="W1,W2",
        help="workloads: " + ",".join(BY_NAME),
    )
    parser.add_argument(
        "--engines",
        type=names,
        default=list(DEFAULT),
        metavar="A,B",
        help="engines: " + ",".join(CONTENDERS),
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, one round: does everything run?"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all single figures to FILE"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="rewrite docs/benchmarks.md even if the run is partial or quick",
    )
    options = parser.parse_args(arguments)
    for given, known in ((options.only, BY_NAME), (options.engines, CONTENDERS)):
        for name in given:
            if name not in known:
                parser.error(f"unknown name {name!r}; there is {', '.join(known)}")
    return options


def measure(
    contender: Contender, python: str, workload: Workload, sizes: dict[str, float]
) -> dict[str, Any]:
    """One workload on one engine, in a new process and an empty folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=workspace(), prefix="run-") as folder:
        command = [python, "-m", contender.module, workload.name, json.dumps(sizes), folder]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=contender.environment_for(workload.name),
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"no result in {TIMEOUT_S} s") from None
    if done.returncode or not done.stdout.strip():
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise Failed(FOLDERS.sub("", lines[-1])[:200])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def command_line(options: argparse.Namespace) -> str:
    """The command that measures the same again: options that only say where to write are left out."""
    parts = [
        "python -m benchmarks",
        f"--rounds {options.rounds}",
        f"--engines {','.join(options.engines)}",
    ]
    if options.only != list(BY_NAME):
        parts.append(f"--only {','.join(options.only)}")
    if options.quick:
        parts.append("--quick")
    return " ".join(parts)


def suits(contender: Contender, workload: Workload, round_number: int) -> bool:
    """Limits measure only limits; peers stop after the rounds that a workload grants them."""
    if (contender.family == "limits") != (workload.name == "LIMITS"):
        return False
    return contender.family in {"perdure", "limits"} or round_number <= workload.peer_rounds


def measure_into(
    run: Run, contender: Contender, python: str, workload: Workload, number: int
) -> None:
    """Measure, note and say it."""
    sizes = workload.sizes_for(contender.family, quick=run.quick)
    run.sizes[contender.name, workload.name] = sizes
    start = time.monotonic()
    try:
        found = measure(contender, python, workload, sizes)
    except Failed as failure:
        run.failures[contender.name, workload.name] = str(failure)
        said = f"failed: {failure}"
    else:
        run.add(contender.name, workload.name, number, found["figures"])
        run.about[contender.name] = found["about"]
        said = ", ".join(f"{key} {significant(value)}" for key, value in found["figures"].items())
    print(
        f"round {number}: {workload.name} {contender.name}: {said} ({time.monotonic() - start:.0f} s)",
        file=sys.stderr,
        flush=True,
    )


def run_all(options: argparse.Namespace) -> Run:
    contenders = [CONTENDERS[name] for name in options.engines]
    pythons = {contender.name: interpreter(contender) for contender in contenders}
    workloads = [workload for workload in WORKLOADS if workload.name in options.only]
    rounds = 1 if options.quick else options.rounds
    run = Run(
        command=command_line(options),
        date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        machine=describe(workspace()),
        contenders=options.engines,
        quick=options.quick,
    )
    for round_number in range(1, rounds + 1):
        for workload in workloads:
            for contender in contenders:
                if suits(contender, workload, round_number):
                    measure_into(run, contender, pythons[contender.name], workload, round_number)
    return run


def save(run: Run, path: Path) -> None:
    values = [
        {"engine": engine, "workload": workload, "metric": metric, "rounds": values}
        for (engine, workload, metric), values in run.values.items()
    ]
    failures = [
        {"engine": engine, "workload": name, "why": why}
        for (engine, name), why in run.failures.items()
    ]
    whole = {
        "date": run.date,
        "command": run.command,
        "machine": dict(run.machine),
        "about": run.about,
        "values": values,
        "failures": failures,
    }
    path.write_text(json.dumps(whole, indent=1) + "\n")


def main() -> int:
    options = parse(sys.argv[1:])
    run = run_all(options)
    generated = render(run)
    print(generated)
    if options.json:
        save(run, options.json)
    whole = (
        set(options.only) == set(BY_NAME)
        and set(DEFAULT) <= set(options.engines)
        and not options.quick
    )
    if whole or options.write:
        PAGE.write_text(insert(PAGE.read_text(), generated))
        print(f"wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)
    else:
        print(
            "a partial or quick run: docs/benchmarks.md stays as it is (--write rewrites it)",
            file=sys.stderr,
        )
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
