"""`lint`: calls that workflow code must not make, found in its source."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer

from perdure.cli import screen
from perdure.cli.options import AsJson
from perdure.cli.outcome import Exit
from perdure.lint.report import Finding, Report
from perdure.lint.report import lint as look

Codes = Annotated[
    list[str] | None,
    typer.Option(
        "--select", metavar="CODES", help="Only these codes, or their beginnings: PD1,PD204."
    ),
]


def lint(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH|MODULE[:APP]...", help="Files, folders, modules, or the app of one."
        ),
    ],
    select: Codes = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="CODES", help="All but these codes; may be repeated."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Hints count as findings.")] = False,
    as_json: AsJson = False,
) -> int:
    """Check workflow code for calls that replay cannot repeat. Nothing is imported or run."""
    with _nothing_to_collect():
        report = look(paths, select=_split(select), ignore=_split(ignore))
    if as_json:
        screen.json(_document(report))
    else:
        for finding in report.findings:
            screen.say(str(finding))
        screen.note(_summary(report))
    # A file that could not be checked may hide anything, so it comes before findings.
    if report.unreadable:
        return Exit.USAGE
    if report.wrong or (strict and report.hints):
        return Exit.FINDINGS
    return Exit.OK


@contextmanager
def _nothing_to_collect() -> Generator[None]:
    """Switch the garbage collector off. Trees are kept until the end, so it would free nothing."""
    # It took half of the time.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _split(codes: list[str] | None) -> list[str]:
    if not codes:
        return []
    # The option may be repeated, and each time it may name several.
    return [code.strip() for code in ",".join(codes).split(",")]


def _summary(report: Report) -> str:
    workflows = screen.counted(report.workflows, "workflow")
    parts = ["no findings"]
    if report.wrong:
        parts = [screen.counted(len(report.wrong), "finding")]
    if report.hints:
        parts.append(screen.counted(len(report.hints), "hint"))
    if report.unreadable:
        files = screen.counted(len(report.unreadable), "file")
        parts.append(f"{files} that could not be checked")
    return f"{', '.join(parts)}; {workflows} in {screen.counted(report.files, 'file')}"


def _document(report: Report) -> dict[str, object]:
    return {
        "findings": [_finding(finding) for finding in report.findings],
        "files": report.files,
        "workflows": report.workflows,
    }


def _finding(finding: Finding) -> dict[str, object]:
    kind = "finding"
    if finding.rule.hint:
        kind = "hint"
    return {
        "file": finding.path,
        "line": finding.line,
        "column": finding.column,
        "code": finding.rule.code,
        "kind": kind,
        "name": finding.name,
        "workflow": finding.workflow,
        "helper": finding.helper,
        "message": finding.message,
        "remedy": finding.rule.remedy,
    }
