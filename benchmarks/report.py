"""The page: tables from the figures, written between two marks of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.contenders import CONTENDERS
from benchmarks.required import REQUIREMENTS, Key, Measured
from benchmarks.summary import Summary, significant
from benchmarks.workloads import BY_NAME, WORKLOADS, Metric, Workload

BEGIN = "<!-- figures: begin (written by `python -m benchmarks`) -->"
END = "<!-- figures: end -->"


@dataclass
class Run:
    """All that one run of the suite found out."""

    command: str
    date: str
    machine: Mapping[str, str]
    contenders: Sequence[str]
    quick: bool = False
    values: dict[Key, dict[int, float]] = field(default_factory=dict)
    sizes: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    about: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(
        self, contender: str, workload: str, round_number: int, figures: Mapping[str, float]
    ) -> None:
        for metric, value in figures.items():
            self.values.setdefault((contender, workload, metric), {})[round_number] = value

    def measured(self) -> dict[Key, Summary]:
        return {key: Summary(values) for key, values in self.values.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns other than the first two are figures and stand to the right."""
    marks = ["---" if number < 2 else "---:" for number in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def trouble(run: Run, measured: Measured) -> list[str]:
    """What went wrong: measurements without figures, and workflows that an engine lost."""
    notes = [
        f"- {name}, {CONTENDERS[contender].title}: a round failed ({why})."
        for (contender, name), why in run.failures.items()
    ]
    for (contender, name, metric), summary in measured.items():
        if metric == "lost":
            most, which = significant(summary.highest), CONTENDERS[contender].title
            notes.append(
                f"- {name}, {which}: up to {most} of its workflows ended as failed by an error of the engine itself."
            )
    return notes


def cell(summary: Summary | None, failure: str | None) -> str:
    """`median [lowest – highest]`; no brackets means one run."""
    if summary is None:
        return "failed" if failure else ""
    text = significant(summary.median)
    if summary.rounds > 1:
        text += f" [{significant(summary.lowest)} – {significant(summary.highest)}]"
    return text


def advantage(metric: Metric, ours: Summary | None, theirs: Summary | None) -> str:
    """How many times better Perdure is; less than 1 means worse."""
    if metric.better is None or ours is None or theirs is None:
        return ""
    above, below = (ours, theirs) if metric.better == "higher" else (theirs, ours)
    if not all(below.values.values()):
        return ""
    return f"{significant(above.over(below), 2)}×"


def figures(run: Run, measured: Measured) -> str:
    names = [name for name in run.contenders if name != "limits"]
    peers = [name for name in names if CONTENDERS[name].family != "perdure"]
    versus = peers if "perdure" in names else []
    rows: list[list[str]] = []
    for workload in WORKLOADS:
        tried = [name for name in names if (name, workload.name) in run.sizes]
        if not tried:
            continue
        for number, metric in enumerate(workload.metrics):
            found = {name: measured.get((name, workload.name, metric.key)) for name in names}
            cells = [cell(found[name], run.failures.get((name, workload.name))) for name in names]
            ratios = [advantage(metric, found["perdure"], found[name]) for name in versus]
            rows.append(
                [f"**{workload.name}**" if number == 0 else "", metric.title, *cells, *ratios]
            )
    header = ["", "figure", *(CONTENDERS[name].title for name in names)]
    return table([*header, *(f"Perdure vs {CONTENDERS[name].title}" for name in versus)], rows)


def limits(measured: Measured) -> str:
    workload = BY_NAME["LIMITS"]
    rows = [
        ["", metric.title, cell(measured.get(("limits", workload.name, metric.key)), None)]
        for metric in workload.metrics
    ]
    return table(["", "limit", "figure"], rows)


def size_notes(run: Run) -> list[str]:
    """Where a peer was given less than Perdure."""
    notes: list[str] = []
    for workload in WORKLOADS:
        usual = workload.sizes_for("perdure", quick=run.quick)
        for name in run.contenders:
            sizes = run.sizes.get((name, workload.name))
            if sizes is not None and (less := differences(sizes, usual)):
                notes.append(f"- {workload.name}, {CONTENDERS[name].title}: {less}.")
    return notes


def differences(sizes: Mapping[str, float], usual: Mapping[str, float]) -> str:
    return ", ".join(
        f"{value:g} {key.replace('_', ' ')} instead of {usual[key]:g}"
        for key, value in sizes.items()
        if value != usual[key] and key != "from_open"
    )


def workload_list(run: Run) -> list[str]:
    def sizes(workload: Workload) -> str:
        found = workload.sizes_for("perdure", quick=run.quick)
        return ", ".join(
            f"{key.replace('_', ' ')} {value:g}"
            for key, value in found.items()
            if key != "from_open"
        )

    return [
        f"- **{workload.name}**: {workload.title} ({sizes(workload)})." for workload in WORKLOADS
    ]


def render(run: Run) -> str:
    """The generated part of the page."""
    measured = run.measured()
    parts = [
        f"Measured {run.date} with `{run.command}`. "
        + "; ".join(f"{key}: {value}" for key, value in run.machine.items())
        + ".",
        "Figures are `median [lowest – highest]`, or of one round. Ratios are medians over rounds; above 1 is good.",
    ]
    if "perdure" in run.contenders:
        rows = [requirement.row(measured) for requirement in REQUIREMENTS]
        parts += [
            "## What is required",
            table(["workload", "required", "aim", "measured", "verdict"], rows),
        ]
    parts += ["## All figures", figures(run, measured)]
    if notes := trouble(run, measured):
        parts += ["What went wrong:", "\n".join(notes)]
    parts += ["## Workloads", "\n".join(workload_list(run))]
    if notes := size_notes(run):
        parts += [
            "Less work for slow engines, where their speed does not depend on it:",
            "\n".join(notes),
        ]
    if "limits" in run.contenders:
        parts += ["## Limits of the machine in the same run", limits(measured)]
    settings = [
        f"- {CONTENDERS[name].title}: "
        + "; ".join(f"{key} {value}" for key, value in run.about[name].items())
        + "."
        for name in run.contenders
        if name in run.about
    ]
    parts += ["## Versions and settings", "\n".join(settings)]
    return "\n\n".join(parts)


def insert(page: str, generated: str) -> str:
    """The page with its generated part replaced; everything outside the two marks is written by hand and kept."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"docs/benchmarks.md has lost its marks: it needs {BEGIN!r} and, after it, {END!r}"
        )
    return f"{before}{BEGIN}\n\n{generated}\n\n{END}{after}"
