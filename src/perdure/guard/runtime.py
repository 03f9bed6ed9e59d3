"""The guard at run time: calls that workflow code must not make are refused where they happen.

The error names the line and what to do instead. Three nets catch what the one before cannot see.
None of them costs anything for a start of a workflow.

- `scan` reads the bytecode once for each workflow function: clocks, random numbers, ids, files,
  threads, sleeps.
- `install` adds an audit hook (files, sockets, processes, whatever opens them), and wraps
  `Thread.start` and `time.sleep`, which have no audit event on every Python. So threads of
  libraries are caught, too: anyio starts its own.
- `watch`, on Python 3.12 and newer, has the interpreter report the calls of the workflow's own code
  objects, and of functions of installed packages as soon as one of those calls them. So the clock
  behind `arrow.utcnow()` is found. A call that is allowed is reported once for each place, and then
  runs at full speed. A place that calls now this and now that is followed into the first alone. The
  standard library is not followed, because its functions are in the catalogue.

No clock is patched. All but `scan` ask `current_level` whether the calling thread is inside a
workflow turn, and of which level that run is. "error" raises `WorkflowViolation`, "warn" logs to
`perdure.guard` once for each place, and "off" does nothing. Outside of turns, an audited event
costs one look into a table.

Some code is permitted inside a turn, whatever it opens: an import under way, reading source lines
for a traceback or a warning, time zone data, the debugger, and everything below a call of `logging`
or of a package for logs and traces. A handler that opens or rotates its file when a record comes is
the process's business, and changes nothing that replay could see. A line of the author's with the
comment `# perdure: ignore[CODE]` is permitted, too.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Literal

from perdure.errors import WorkflowViolation
from perdure.guard.classes import constructors
from perdure.guard.known import forbidden, look_up
from perdure.guard.scan import Finding, reachable, scan
from perdure.lint.catalogue import ENVIRONMENT, FILE, NETWORK, PROCESS, SLEEP, THREAD, Entry, Rule
from perdure.lint.comment import is_ignored

__all__ = ["Finding", "GuardLevel", "WorkflowViolation", "install", "scan", "watch"]

GuardLevel = Literal["error", "warn", "off"]
CurrentLevel = Callable[[], GuardLevel | None]

logger = logging.getLogger("perdure.guard")

# Audit events that are refused, by the rule that they break.
_REFUSED = {
    FILE: """
        open sqlite3.connect tempfile.mkdtemp tempfile.mkstemp os.chmod os.chown os.link os.listdir
        os.mkdir os.remove os.rename os.rmdir os.scandir os.symlink os.truncate
        shutil.copyfile shutil.move shutil.rmtree
    """,
    NETWORK: """
        urllib.Request socket.__new__ socket.bind socket.connect socket.getaddrinfo
        socket.gethostbyaddr socket.gethostbyname socket.sendmsg socket.sendto
    """,
    PROCESS: """
        subprocess.Popen pty.spawn os.exec os.fork os.forkpty os.kill os.posix_spawn os.spawn
        os.startfile os.system
    """,
    THREAD: "_thread.start_new_thread _thread.start_joinable_thread",
    SLEEP: "time.sleep",
}
_EVENTS: dict[str, Rule] = {}
for _rule, _names in _REFUSED.items():
    _EVENTS.update(dict.fromkeys(_names.split(), _rule))

# Audit events have names that authors of workflows do not know.
_NAMES = {
    "socket.__new__": "socket.socket()",
    "_thread.start_new_thread": "Thread.start()",
    "_thread.start_joinable_thread": "Thread.start()",
}
_SHOWS_ARGUMENT = frozenset(
    {"open", "os.listdir", "os.scandir", "subprocess.Popen", "sqlite3.connect"}
)
# The program's business, wherever it happens: the debugger, logs, warnings, imports, time zones.
_PERMITTED = frozenset(
    {"bdb", "importlib", "linecache", "logging", "pdb"}
    | {"traceback", "warnings", "zipimport", "zoneinfo"}
    | {"loguru", "opentelemetry", "sentry_sdk", "structlog"}
)
# By Python's own list 3 and 4 belong to no kind of tool.
_TOOLS = (4, 3)
_STDLIB = f"{Path(os.__file__).parent}{os.sep}"
_SITE = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def install(current_level: CurrentLevel) -> None:
    """Watch the whole process from now on. Installing again only replaces `current_level`.

    `current_level` must be cheap. It gives the guard level of the workflow turn that the calling
    thread is in, or None.
    """
    _guard().current_level = current_level


def watch(fn: Callable[..., object], package: str | None = None) -> bool:
    """Check the calls of a workflow function, its nested functions and its helpers while it runs.

    `package` as in `scan`. Returns False where the interpreter cannot do it: before Python 3.12, or
    if other tools have taken every free monitoring id.
    """
    return _guard().watch(reachable(fn, package))


@functools.cache
def _guard() -> _Guard:
    """The guard of this process. The first call installs its hooks."""
    # One for ever, because an audit hook cannot be removed again.
    guard = _Guard()
    sys.addaudithook(_audit_hook(guard))
    _wrap(guard, threading.Thread, "start", "Thread.start()", THREAD)
    _wrap(guard, time, "sleep", "time.sleep()", SLEEP)
    return guard


class _Guard:
    """The state that the hooks of the process share."""

    def __init__(self) -> None:
        self.current_level: CurrentLevel = lambda: None
        self.warned: set[tuple[str, int]] = set()
        self.known: Mapping[object, Entry] = {}
        self.tool: int | None = None
        self.lacks_tool = False

    def check(self, name: str, rule: Rule) -> None:
        """Refuse `name` if the calling thread is in a turn whose level says so."""
        level = self.current_level()
        if level is None or level == "off":
            return
        place = _place()
        if place is None or is_ignored(*place, rule.code):
            return
        message = f"{name} inside a workflow, at {place[0]}:{place[1]}: {rule.remedy}"
        if level == "error":
            raise WorkflowViolation(message)
        # Once for each place: code in a loop would fill the log.
        if place not in self.warned:
            self.warned.add(place)
            logger.warning("%s", message)

    def watch(self, codes: list[CodeType]) -> bool:
        """Have the calls of these code objects reported. False if that cannot be done."""
        # Again each time, because modules may have been loaded since.
        self.known = forbidden()
        if sys.version_info >= (3, 12):
            if self.tool is None:
                self.tool = self.claim_tool()
            for code in codes:
                self.watch_code(code)
            return self.tool is not None
        return False

    if sys.version_info >= (3, 12):

        def claim_tool(self) -> int | None:
            """A monitoring id that no debugger, profiler or coverage tool uses."""
            monitoring = sys.monitoring
            for tool in _TOOLS:
                if monitoring.get_tool(tool) is None:
                    monitoring.use_tool_id(tool, "perdure")
                    monitoring.register_callback(tool, monitoring.events.CALL, self.called)
                    return tool
            if not self.lacks_tool:
                self.lacks_tool = True
                logger.warning(
                    "calls of workflows are not watched, because %s use the monitoring ids %s of "
                    "this process: free one of them (sys.monitoring.free_tool_id) before the node "
                    "starts. The scan and the refusals of files, sockets, threads and sleeps work",
                    " and ".join(repr(monitoring.get_tool(tool)) for tool in _TOOLS),
                    " and ".join(map(str, _TOOLS)),
                )
            return None

        def watch_code(self, code: CodeType) -> None:
            """Have the calls of one code object reported."""
            if self.tool is not None:
                sys.monitoring.set_local_events(self.tool, code, sys.monitoring.events.CALL)

        def called(self, code: CodeType, offset: int, function: object, first: object) -> object:
            """Check one call. DISABLE tells the interpreter to report this place no more."""
            entry = look_up(self.known, function)
            if entry is None and type(function) is FunctionType and first is not None:
                # Python 3.14 reports a bound method in two parts.
                entry = look_up(self.known, MethodType(function, first))
            if entry is not None:
                # A bare entry is allowed with an argument, such as `time.localtime(seconds)`.
                if not entry.bare or first is sys.monitoring.MISSING:
                    self.check(f"{entry.name}()", entry.rule)
                return None
            if first is os.environ or getattr(function, "__self__", None) is os.environ:
                self.check("os.environ", ENVIRONMENT)
                return None
            if isinstance(function, type):
                made = self.follow_class(function)
                if made is not None:
                    self.check(f"{made.name}() (made by {function.__name__}())", made.rule)
                    return None
            else:
                self.follow(function)
            return sys.monitoring.DISABLE

        def follow_class(self, owner: type) -> Entry | None:
            """Watch what runs when a class is called. Returns what it must not call, if it does."""
            for part in constructors(owner):
                entry = look_up(self.known, part)
                if entry is not None:
                    return entry
                self.follow(part)
            return None

        def follow(self, function: object) -> None:
            """Watch a function of an installed package, which code that is watched calls."""
            if isinstance(function, MethodType):
                function = function.__func__
            if isinstance(function, FunctionType) and _is_foreign(function):
                self.watch_code(function.__code__)


def _is_foreign(function: FunctionType) -> bool:
    """Whether it is neither of the standard library nor of Perdure."""
    file = function.__code__.co_filename
    if str(function.__module__).partition(".")[0] in _PERMITTED | {"perdure"}:
        return False
    return any(site in file for site in _SITE) or not file.startswith((_STDLIB, "<frozen "))


def _audit_hook(guard: _Guard) -> Callable[[str, tuple[object, ...]], None]:
    # A local, because globals may be gone when the interpreter's last events come.
    events = _EVENTS

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event not in events or guard.current_level() is None or _is_time_zone(arguments):
            return
        if event in _SHOWS_ARGUMENT:
            shown = f"{event}({arguments[0]!r})"
        else:
            shown = _NAMES.get(event, f"{event}()")
        guard.check(shown, events[event])

    return audit


def _wrap(guard: _Guard, owner: object, attribute: str, name: str, rule: Rule) -> None:
    original: Callable[..., object] = getattr(owner, attribute)

    @functools.wraps(original)
    def guarded(*args: object, **kwargs: object) -> object:
        if guard.current_level() is not None:
            guard.check(name, rule)
        return original(*args, **kwargs)

    setattr(owner, attribute, guarded)


def _is_time_zone(arguments: tuple[object, ...]) -> bool:
    """Whether a file of the time zone database is opened."""
    # `ZoneInfo` opens it in C, so there is no frame to tell by.
    if not arguments or "zoneinfo" not in sys.modules:
        return False
    file = arguments[0]
    return isinstance(file, str) and file.startswith(sys.modules["zoneinfo"].TZPATH)


def _place() -> tuple[str, int] | None:
    """The line of user code that is to blame, or None if what happens is permitted.

    That is the innermost frame outside the standard library, installed packages and Perdure. An
    application that is installed itself has only frames of packages. Then it is the innermost of
    those, and of the standard library if need be.
    """
    frame: FrameType | None = sys._getframe()  # pyright: ignore[reportPrivateUsage]
    innermost: dict[str, tuple[str, int]] = {}
    # To the outermost frame, because a permitted one may be further out, such as that of a handler.
    while frame is not None:
        module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        file = frame.f_code.co_filename
        place = (file, frame.f_lineno)
        if module in _PERMITTED or file.startswith("<frozen importlib"):
            return None
        if module == "perdure":
            # This module, or code that the workflow calls. Further out it is the kernel, and behind
            # that are the frames of the node's program.
            if "user" in innermost or "installed" in innermost:
                break
        elif any(site in file for site in _SITE):
            innermost.setdefault("installed", place)
        elif not file.startswith((_STDLIB, "<frozen ")):
            innermost.setdefault("user", place)
        else:
            innermost.setdefault("standard", place)
        frame = frame.f_back
    for kind in ("user", "installed", "standard"):
        if kind in innermost:
            return innermost[kind]
    return "<unknown>", 0
