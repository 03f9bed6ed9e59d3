"""The program and its commands.

Only this module turns an error into a line on stderr and an exit code.
"""

from __future__ import annotations

import inspect
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from textwrap import wrap
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from perdure.cli import (
    benching,
    clusters,
    controls,
    events,
    explaining,
    idling,
    letters,
    linting,
    listings,
    migrating,
    moving,
    pinning,
    removing,
    replaying,
    runs,
    screen,
    serving,
    showing,
    stats,
    streams,
    tree,
)
from perdure.cli.outcome import MEANINGS, Exit, exit_of, with_options
from perdure.errors import AlreadyStarted, HasParent, PerdureError, StillRunning

DEBUG = "--debug"


def _shown(params: list[Any]) -> list[Any]:
    """The parameters of a help text. A flag has no value, so no type is shown behind it."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


class Command(TyperCommand):
    """A command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its arguments and options."""
        return _shown(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of the group itself."""
        return _shown(super().get_params(ctx))


class Program(Group):
    """The group of all commands. A command returns its exit code. The class of an error has one."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of the program, and the exit codes below it."""
        super().format_help(ctx, formatter)
        # An epilog of typer would have an empty line between two codes, and lose their columns.
        screen.say(f"{_exit_codes()}\n")

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and end the process with its exit code. `--debug` shows tracebacks."""
        if args is None:
            args = sys.argv[1:]
        given, debug = _without_debug(list(args))
        given = idling.with_idle_time(given)
        with streams.kept():
            code: object
            # In standalone mode click would print errors and end the process by itself.
            try:
                code = super().main(
                    given, prog_name or "perdure", complete_var, False, windows_expand_args, **extra
                )
                sys.stdout.flush()
            except BaseException as error:
                code = _explain(error, given)
                if debug:
                    traceback.print_exception(error, file=sys.stderr)
        if not standalone_mode:
            return code
        if isinstance(code, int):
            sys.exit(int(code))
        sys.exit(Exit.OK)


def _without_debug(args: list[str]) -> tuple[list[str], bool]:
    """The arguments without `--debug`, and whether it was there.

    It works at any place, so typer never sees it. Behind `--` it is an argument like others.
    """
    end = len(args)
    if "--" in args:
        end = args.index("--")
    kept = [arg for arg in args[:end] if arg != DEBUG]
    return [*kept, *args[end:]], len(kept) < end


def _explain(error: BaseException, args: list[str]) -> int:
    """Say it in one line. Returns the exit code."""
    if isinstance(error, streams.AnswerLost):
        streams.give_up_answers()
        if error.by_reader:  # `head` has seen enough
            return Exit.OK
        screen.error(f"the answer cannot be written to stdout: {error}")
        return Exit.OUTPUT
    # The user's module may call `sys.exit` at its import.
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            return error.code
        return Exit.FAILED
    # typer raises Abort at a prompt, for Ctrl-C and for the answer no.
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Exit.INTERRUPTED
    if isinstance(error, PerdureError):
        text = str(error)
        # The texts of other errors may be those of a user's code.
        if isinstance(error, AlreadyStarted | StillRunning | HasParent):
            text = with_options(text)
        hint = explaining.more(error)
        if hint is not None:
            text = f"{text} (more: {hint})"
        screen.error(text)
        code = exit_of(error)
        _add_document(error, code, args)
        return code
    # Errors of typer and click have this method. They are refused arguments.
    describe = getattr(error, "format_message", None)
    if describe is not None:
        command = next((f"{arg} " for arg in args if arg in NAMES), "")
        # typer repeats the kind of the error that its parser gave.
        sentence = str(describe()).replace("Value error, ", "")
        # Click's sentences end as they should. Those of pydantic have no full stop.
        if not sentence.endswith((".", "?")):
            sentence += "."
        screen.error(f"{sentence} See: perdure {command}--help")
        _add_document(error, Exit.USAGE, args)
        return Exit.USAGE
    screen.error(
        f"internal error: {type(error).__name__}: {error}; {DEBUG} shows where, please report it"
    )
    return Exit.INTERNAL


def _add_document(error: BaseException, code: Exit, args: list[str]) -> None:
    """With `--json`, print the error as a document, unless there is one already."""
    options = args
    if "--" in args:
        options = args[: args.index("--")]
    if "--json" not in options or streams.is_answer_begun():
        return
    facts = {"type": type(error).__name__, "message": str(error), "exit_code": int(code)}
    with suppress(streams.AnswerLost):  # stderr has said it
        screen.json({"error": facts})


def _exit_codes() -> str:
    """The exit codes and their meanings, in two columns."""
    # No wider than the help above, which typer draws as wide as the terminal.
    columns = min(shutil.get_terminal_size().columns, 100)
    lines = [" Exit codes:"]
    for code, meaning in MEANINGS.items():
        lines += wrap(
            meaning, columns, initial_indent=f"  {code.value:>3}  ", subsequent_indent=" " * 7
        )
    return "\n".join(lines)


def _help(command: Callable[..., int]) -> str:
    """The docstring, with each paragraph on one line: typer would keep its line breaks."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


app = typer.Typer(
    name="perdure",
    cls=Program,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show the traceback of an error, in every command.")
    ] = False,
) -> int:
    """Durable workflows, embedded in your own process.

    The store is a URL, by default sqlite:///perdure.db in the current folder. --store or
    PERDURE_STORE names another. stdout has the answer, stderr everything else.
    """
    assert not debug  # `main` takes it out. Here it only stands in the help.
    if version:
        from perdure import __version__

        screen.say(f"perdure {__version__}")
    elif context.invoked_subcommand is None:
        # An error, so that a script notices that it has lost its arguments.
        screen.say(context.get_help())
        return Exit.USAGE
    return Exit.OK


app.callback(invoke_without_command=True, help=_help(root))(root)

RUNNING, READING, ASKING, REMOVING, CHECKING = "Run", "Look", "Ask", "Remove", "Check"

for _panel, _commands in (
    (RUNNING, (runs.run, runs.start, serving.serve, runs.wait, benching.bench)),
    (
        READING,
        (
            listings.ls,
            showing.show,
            events.history,
            replaying.replay,
            stats.stats,
            clusters.nodes,
            clusters.shards,
            clusters.scale,
            tree.tree,
            explaining.explain,
        ),
    ),
    (
        ASKING,
        (
            controls.send,
            controls.raise_event,
            controls.cancel,
            controls.terminate,
            controls.pause,
            controls.resume,
            controls.retry,
            pinning.pin,
            pinning.unpin,
        ),
    ),
    (REMOVING, (removing.delete, removing.prune)),
    (CHECKING, (linting.lint, migrating.migrate, moving.move)),
):
    for _command in _commands:
        _name = _command.__name__.replace("_", "-")
        app.command(_name, cls=Command, rich_help_panel=_panel, help=_help(_command))(_command)

_letters = typer.Typer(
    cls=Group, help="Dead letters: messages that no instance took.", no_args_is_help=True
)
for _verb in (letters.ls, letters.show, letters.resend, letters.drop):
    _letters.command(_verb.__name__, cls=Command, help=_help(_verb))(_verb)
app.add_typer(_letters, name="letters", rich_help_panel=READING)

NAMES = frozenset(command.name or "" for command in app.registered_commands) | {"letters"}


def program() -> None:
    """Run the command that the process was given."""
    app(prog_name="perdure")
