"""Results of `bench`: drawn for people, kept in a file, and compared over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from perdure.cli import screen
from perdure.cli.outcome import Exit
from perdure.errors import StoreUnavailable, UsageError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from perdure.bench.stress import Report, Stress

SHOWN = 8
"""The last results of one kind that a comparison shows."""


def figure(value: float) -> str:
    """Three significant digits: 12,300 · 412 · 2.41 · 0.0571."""
    if abs(value) < 1:
        return f"{value:.3g}"
    # Rounded to three digits first, and then written without an exponent.
    text = f"{float(f'{value:.3g}'):,.2f}"
    if abs(value) < 10:
        return text
    if abs(value) < 100:
        return text[:-1].removesuffix(".0")
    return text[:-3]


def millis(percentiles: dict[str, float]) -> str:
    """p50, p95, p99 and the highest, in milliseconds."""
    return " · ".join(f"{name} {figure(value)}" for name, value in percentiles.items()) + " ms"


def progress(stress: Stress, shape: str) -> Text:
    """The line that is shown while a run goes on."""
    from rich.text import Text

    tally = stress.tally
    if not tally.begun:
        return Text(f"{shape}: looking at the machine", style="bright_black")
    took = max(tally.took_s, 0.001)  # no division by 0 in the first frame
    latencies = tally.latencies
    failed = ""
    if tally.failed:
        failed = f"  {tally.failed:,} failed"
    return Text.assemble(
        (shape, "bold"),
        f"  {min(took, stress.seconds):.0f} of {stress.seconds:g} s  ",
        (f"{tally.completed:,} completed", "green"),
        (failed, "red"),
        f"  {figure(tally.completed / took)}/s  p50 {figure(latencies.percentile(50))} ms",
        f"  {stress.gauges.resident_mb:.0f} MB",
    )


def table(report: Report) -> Table:
    """A result for people."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, value in _rows(report):
        grid.add_row(name, value)
    return grid


def _rows(report: Report) -> list[tuple[str, str]]:
    use = report.use
    settings = [
        f"{name.replace('_', ' ')} {_setting(value)}" for name, value in report.settings.items()
    ]
    success = f"{report.completed:,} ({report.success_percent:.6g} %)"
    rows = [
        (report.shape, f"{', '.join(settings)}; {report.store}, {report.took_s:.1f} s"),
        ("completed", f"{success}, {report.failed:,} failed"),
    ]
    for name, trouble in report.failures.items():
        rows.append((f"  {name}", f"{trouble.count:,}: {trouble.first}"))
    rows.append(("instances/s", figure(report.instances_per_s)))
    if report.activities_per_s:
        rows.append(("activities/s", figure(report.activities_per_s)))
    rows.append(("start to result", millis(report.latency_ms)))
    if report.steps_ms is not None:
        rows.append(("one durable step", millis(report.steps_ms)))
    rows += [
        ("memory", f"peak {use.rss_peak_mb:.0f} MB, {use.rss_growth_mb:+.1f} MB in the last third"),
        ("left in memory", f"{report.residents} instances"),
        ("processor", f"{use.cpu_percent:.0f} % of one core, at most {use.cpu_peak_percent:.0f} %"),
    ]
    if report.store_mb is not None and report.scale.disk_commits_per_s is not None:
        rows.append(("store", f"{figure(report.store_mb)} MB at the end"))
        disk = figure(report.scale.disk_commits_per_s)
        rows.append(("this disk", f"{disk} durable SQLite commits/s"))
    machine = report.scale.machine
    facts = [machine[key] for key in ("cores", "memory", "file system", "Python")]
    rows.append(("machine", ", ".join(facts)))
    return rows


def _setting(value: object) -> str:
    if isinstance(value, tuple | list):  # a list where the report was read from a file
        pairs = cast("Sequence[tuple[int, int]]", value)
        return " + ".join(f"{times} × {kb} KB" for times, kb in pairs)
    return str(value)


# ---------------------------------------------------------------- over time


def keep(report: Report, path: Path) -> None:
    """Append a result to a file, which is made when there is none."""
    # One line per result, so that runs of several programs can append to one file.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(screen.json_text(report, indent=0) + "\n")
    except OSError as error:
        msg = f"the result cannot be kept in {path}: {error.strerror}"
        raise StoreUnavailable(msg) from error


def kept(path: Path) -> list[Report]:
    """The results in a file, oldest first.

    Raises:
        UsageError: there is no such file, or a line of it is no result.
    """
    from perdure.bench.stress import Report

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read: {error}; `perdure bench --keep {path}` makes it"
        raise UsageError(msg) from error
    found: list[Report] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(msgspec.json.decode(line, type=Report))
        except msgspec.DecodeError as error:
            msg = (
                f"{path}, line {number} is no result of `perdure bench --keep`: {error}; "
                "remove the line"
            )
            raise UsageError(msg) from error
    return found


def show(path: Path, *, as_json: bool) -> int:
    """Print the last results of each kind, each beside the first of those shown."""
    reports = kept(path)
    if as_json:
        screen.json(reports)
    elif not reports:
        screen.note(f"{path} has no result yet; `perdure bench --keep {path}` adds one")
    else:
        screen.show(comparison(reports))
    return Exit.OK


def comparison(reports: Sequence[Report]) -> Table:
    """Group results of the same shape, settings and kind of store.

    Ratios compare with the first result of a group.
    """
    from rich.table import Table

    groups: dict[str, list[Report]] = {}
    for report in reports:
        groups.setdefault(f"{report.shape} {report.store} {report.settings}", []).append(report)
    grid = Table(box=None, pad_edge=False)
    for name in ("shape", "store", "when", "version"):
        grid.add_column(name, overflow="fold")
    for name in ("instances/s", "×", "activities/s", "p50 ms", "p99 ms", "peak MB", "failed"):
        grid.add_column(name, justify="right")
    for group in groups.values():
        shown = group[-SHOWN:]
        first = shown[0].instances_per_s
        for report in shown:
            ratio = ""
            if first:  # a run in which no instance completed has no rate
                ratio = figure(report.instances_per_s / first)
            grid.add_row(
                report.shape,
                report.store,
                report.at[:16].replace("T", " "),
                report.version,
                figure(report.instances_per_s),
                ratio,
                figure(report.activities_per_s),
                figure(report.latency_ms["p50"]),
                figure(report.latency_ms["p99"]),
                f"{report.use.rss_peak_mb:.0f}",
                f"{report.failed:,}",
            )
    return grid
