"""lint: what workflow code must not do, found in its source."""

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
        "--select", metavar="CODES", help="Only these codes, or what they begin with: PD1,PD204."
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
    """Check workflow code for what replay cannot repeat. Nothing is imported or run."""
    with _nothing_to_collect():
        report = look(paths, select=_split(select), ignore=_split(ignore))
    if as_json:
        screen.json(_document(report))
    else:
        for finding in report.findings:
            screen.say(str(finding))
        screen.note(_summary(report))
    if report.unreadable:
        return Exit.USAGE
    if report.wrong or (strict and report.hints):
        return Exit.FINDINGS
    return Exit.OK


@contextmanager
def _nothing_to_collect() -> Generator[None]:
    """Trees are kept until the end: collecting would take half of the time and free nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _split(codes: list[str] | None) -> list[str]:
    return [code.strip() for given in codes or () for code in given.split(",")]


def _summary(report: Report) -> str:
    seen = f"{_count(report.workflows, 'workflow')} in {_count(report.files, 'file')}"
    parts = [_count(len(report.wrong), "finding") if report.wrong else "no findings"]
    if report.hints:
        parts.append(_count(len(report.hints), "hint"))
    if report.unreadable:
        parts.append(f"{_count(len(report.unreadable), 'file')} that could not be checked")
    return f"{', '.join(parts)}; {seen}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _document(report: Report) -> dict[str, object]:
    return {
        "findings": [_finding(finding) for finding in report.findings],
        "files": report.files,
        "workflows": report.workflows,
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "file": finding.path,
        "line": finding.line,
        "column": finding.column,
        "code": finding.rule.code,
        "kind": "hint" if finding.rule.hint else "finding",
        "name": finding.name,
        "workflow": finding.workflow,
        "helper": finding.helper,
        "message": finding.message,
        "remedy": finding.rule.remedy,
    }
