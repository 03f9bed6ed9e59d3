"""Interrupting again a turn whose code has swallowed an interruption.

The watchdog insists when a turn reaches its limit a second time (`watchdog.py`).
`PyThreadState_SetAsyncExc` has the interpreter raise at the thread's next check. That is at a call,
or at the jump back of a loop. The exception sends itself again in the moment in which it is
created, which is before the handler that swallows it begins. So the handler's first call or jump
raises again, and code comes out of any number of nested handlers.

Python 3.12 counts the jump back of a loop to the instruction before the loop's first, which
`while True: try:` has inside the `try`. There, instead, `sys.monitoring` reports each instruction
of the functions that are on the stack. The callback raises at the first one that handles the
exception.

It is never done while the thread is within modules that hold locks of the whole process, because it
would leave them held. The next limit comes again.
"""

from __future__ import annotations

import dis
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

# Modules with locks of the whole process.
_LOCKING = frozenset({"concurrent", "importlib", "logging", "queue", "threading"})
_PACKAGE = str(Path(__file__).parent.parent)
_NAME = "perdure-watchdog"
_PUSH_EXC_INFO = dis.opmap["PUSH_EXC_INFO"]
# By Python's own list 3 and 4 belong to no kind of tool. 5 is for optimisers.
_TOOLS = (4, 3, 5)


def may_insist(frame: FrameType | None, until: CodeType) -> bool:
    """Whether no frame down to that of `until` belongs to a module with locks of the process."""
    while frame is not None and frame.f_code is not until:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _LOCKING:
            return False
        frame = frame.f_back
    return True


class Handlers:
    """Raise in each handler of the functions that one thread is in, where Python needs it."""

    __slots__ = ("_codes", "_exception", "_thread_id", "_tool")

    def __init__(self, exception: type[BaseException]) -> None:
        """Nothing is raised before `begin`."""
        self._exception = exception
        self._thread_id = 0
        self._tool: int | None = None
        self._codes: list[CodeType] = []

    if sys.version_info >= (3, 12) and sys.version_info < (3, 13):

        def begin(self, frame: FrameType | None, until: CodeType) -> bool:
            """Raise from now on, in the calling thread.

            The functions are those from `frame` down to `until`, which is left out. False if other
            tools have taken every free monitoring id.
            """
            monitoring = sys.monitoring
            if self._tool is None:
                self._thread_id = threading.get_ident()
                free = (tool for tool in _TOOLS if monitoring.get_tool(tool) is None)
                self._tool = next(free, None)
                if self._tool is None:
                    return False
                monitoring.use_tool_id(self._tool, _NAME)
                monitoring.register_callback(
                    self._tool, monitoring.events.INSTRUCTION, self._stepped
                )
            while frame is not None and frame.f_code is not until:
                code = frame.f_code
                # Our own handlers put things in order, so they are left alone.
                if code not in self._codes and not code.co_filename.startswith(_PACKAGE):
                    self._codes.append(code)
                    monitoring.set_local_events(self._tool, code, monitoring.events.INSTRUCTION)
                frame = frame.f_back
            return True

        def end(self) -> None:
            """Raise no more. It may be called again, also after it was interrupted."""
            tool = self._tool
            if tool is not None and sys.monitoring.get_tool(tool) == _NAME:
                for code in self._codes:
                    sys.monitoring.set_local_events(tool, code, 0)
                sys.monitoring.free_tool_id(tool)
            self._codes = []
            self._tool = None

        def _stepped(self, code: CodeType, offset: int) -> None:
            if threading.get_ident() != self._thread_id:
                return
            # Before this instruction a handler has not begun, and could not be left.
            if code.co_code[offset] == _PUSH_EXC_INFO:
                return
            if isinstance(sys.exception(), self._exception):
                raise self._exception

    else:

        def begin(self, frame: FrameType | None, until: CodeType) -> bool:
            """False. This release of Python does not need it."""
            return False

        def end(self) -> None:
            """Nothing. This release of Python does not need it."""
