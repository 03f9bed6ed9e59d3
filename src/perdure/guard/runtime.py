"""The guard: what workflow code must not do is refused where it happens, with the line and what to do instead.

Theory of operation. Three nets, each for what the one before cannot see, and nothing per start of a workflow:

- `scan` reads the bytecode once per workflow function: clocks, random numbers, ids, files, threads, sleeps.
- `install` adds an audit hook (files, sockets, processes, whoever opens them) and wraps `Thread.start` and
  `time.sleep`, which have no audit event on every Python. So threads of libraries are caught too: anyio starts its
  own.
- `watch`, on Python 3.12 and newer, has the interpreter report the calls of the workflow's own code objects. A call
  that is allowed is reported once per place and then runs at full speed.

No clock is patched. All but `scan` ask `current_level` whether the calling thread is inside a workflow turn, and of
which level that run is: "error" raises `WorkflowViolation`, "warn" logs to `perdure.guard` once per place, "off" does
nothing. Outside of turns, an audited event costs one look into a table.

Permitted inside a turn, whatever it opens: an import under way, reading source lines for a traceback or a warning,
time zone data, the debugger, and everything below a call of `logging`: a handler that opens or rotates its file when
a record comes is the process's business, and changes nothing that replay could see. So is a line of the author's with
the comment `# perdure: ignore[CODE]`.
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
from perdure.guard.scan import Finding, forbidden, look_up, reachable, scan
from perdure.lint.catalogue import FILE, NETWORK, PROCESS, SLEEP, THREAD, Entry, Rule
from perdure.lint.comment import is_ignored

__all__ = ["Finding", "GuardLevel", "WorkflowViolation", "install", "scan", "watch"]

GuardLevel = Literal["error", "warn", "off"]
CurrentLevel = Callable[[], GuardLevel | None]

logger = logging.getLogger("perdure.guard")

_FILES = {"open", "sqlite3.connect", "tempfile.mkdtemp", "tempfile.mkstemp"} | {
    f"{module}.{name}"
    for module, names in {
        "os": [
            "chmod",
            "chown",
            "link",
            "listdir",
            "mkdir",
            "remove",
            "rename",
            "rmdir",
            "scandir",
            "symlink",
            "truncate",
        ],
        "shutil": ["copyfile", "move", "rmtree"],
    }.items()
    for name in names
}
_NETWORK = {"urllib.Request"} | {
    f"socket.{name}"
    for name in [
        "__new__",
        "bind",
        "connect",
        "getaddrinfo",
        "gethostbyaddr",
        "gethostbyname",
        "sendmsg",
        "sendto",
    ]
}
_PROCESSES = {"subprocess.Popen", "pty.spawn"} | {
    f"os.{name}"
    for name in ["exec", "fork", "forkpty", "kill", "posix_spawn", "spawn", "startfile", "system"]
}
_THREADS = {"_thread.start_new_thread", "_thread.start_joinable_thread"}
_EVENTS: dict[str, Rule] = {
    **dict.fromkeys(_FILES, FILE),
    **dict.fromkeys(_NETWORK, NETWORK),
    **dict.fromkeys(_PROCESSES, PROCESS),
    **dict.fromkeys(_THREADS, THREAD),
    "time.sleep": SLEEP,
}
"""Audit events that are refused, and why."""

_NAMES = {"socket.__new__": "socket.socket()", **dict.fromkeys(_THREADS, "Thread.start()")}
_SHOWS_ARGUMENT = frozenset(
    {"open", "os.listdir", "os.scandir", "subprocess.Popen", "sqlite3.connect"}
)
_PERMITTED = frozenset(
    {
        "bdb",
        "importlib",
        "linecache",
        "logging",
        "pdb",
        "traceback",
        "warnings",
        "zipimport",
        "zoneinfo",
    }
)
_STDLIB = f"{Path(os.__file__).parent}{os.sep}"
_SITE = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def install(current_level: CurrentLevel) -> None:
    """Watch the whole process, from now on; installing again only replaces `current_level`.

    `current_level` must be cheap: it says the guard level of the workflow turn that the calling thread is in, or None.
    """
    _guard().current_level = current_level


def watch(fn: Callable[..., object], package: str | None = None) -> bool:
    """Have the calls of a workflow function, its nested functions and its helpers checked while it runs.

    `package` as in `scan`. Returns False where the interpreter cannot do it: before Python 3.12, or if other tools
    have
    taken every free monitoring id.
    """
    return _guard().watch(reachable(fn, package))


class _Guard:
    """What the hooks share."""

    def __init__(self) -> None:
        self.current_level: CurrentLevel = lambda: None
        self.warned: set[tuple[str, int]] = set()
        self.known: Mapping[object, Entry] = {}
        self.tool: int | None = None

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
        if place not in self.warned:
            self.warned.add(place)
            logger.warning("%s", message)

    def watch(self, codes: list[CodeType]) -> bool:
        self.known = forbidden()  # again each time: modules may have been loaded since
        if sys.version_info >= (3, 12):
            if self.tool is None:
                self.tool = self.claim_tool()
            if self.tool is not None:
                for code in codes:
                    sys.monitoring.set_local_events(self.tool, code, sys.monitoring.events.CALL)
                return True
        return False

    if sys.version_info >= (3, 12):

        def claim_tool(self) -> int | None:
            """A monitoring id that no debugger, profiler or coverage tool uses."""
            for tool in (4, 3):
                if sys.monitoring.get_tool(tool) is None:
                    sys.monitoring.use_tool_id(tool, "perdure")
                    sys.monitoring.register_callback(tool, sys.monitoring.events.CALL, self.called)
                    return tool
            return None

        def called(self, code: CodeType, offset: int, function: object, first: object) -> object:
            """Check one call. DISABLE means: do not report calls from this place again."""
            entry = look_up(self.known, function)
            if entry is None and type(function) is FunctionType and first is not None:
                # 3.14 reports a bound method in two parts.
                entry = look_up(self.known, MethodType(function, first))
            if entry is None:
                return sys.monitoring.DISABLE
            if not entry.bare or first is sys.monitoring.MISSING:
                self.check(f"{entry.name}()", entry.rule)
            return None


@functools.cache
def _guard() -> _Guard:
    """The guard of this process; the first call installs its hooks, which cannot be removed again."""
    guard = _Guard()
    sys.addaudithook(_audit_hook(guard))
    _wrap(guard, threading.Thread, "start", "Thread.start()", THREAD)
    _wrap(guard, time, "sleep", "time.sleep()", SLEEP)
    return guard


def _audit_hook(guard: _Guard) -> Callable[[str, tuple[object, ...]], None]:
    events = _EVENTS  # a local: globals may be gone when the interpreter's last events come

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in events and guard.current_level() is not None and not _is_time_zone(arguments):
            shown = (
                f"{event}({arguments[0]!r})"
                if event in _SHOWS_ARGUMENT
                else _NAMES.get(event, f"{event}()")
            )
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
    """Whether a file of the time zone database is opened: `ZoneInfo` does it in C, with no frame to tell by."""
    file = arguments[0] if arguments else None
    return (
        isinstance(file, str)
        and "zoneinfo" in sys.modules
        and file.startswith(sys.modules["zoneinfo"].TZPATH)
    )


def _place() -> tuple[str, int] | None:
    """The line of user code that is to blame, or None if what happens is permitted.

    That is the innermost frame outside the standard library, installed packages and Perdure. An application that is
    installed itself has only frames of packages: then the innermost of those; of the standard library, if need be.
    """
    frame: FrameType | None = sys._getframe()  # pyright: ignore[reportPrivateUsage]
    user = installed = nearest = None
    while frame is not None:
        module, file = (
            str(frame.f_globals.get("__name__", "")).partition(".")[0],
            frame.f_code.co_filename,
        )
        place = (file, frame.f_lineno)
        if module in _PERMITTED or file.startswith("<frozen importlib"):
            return None
        if (
            module == "perdure"
        ):  # this module, or code that the workflow calls, or, further out, the kernel
            if user or installed:
                break
        elif any(site in file for site in _SITE):
            installed = installed or place
        elif not file.startswith((_STDLIB, "<frozen ")):
            user = user or place
        else:
            nearest = nearest or place
        frame = frame.f_back
    return user or installed or nearest or ("<unknown>", 0)
