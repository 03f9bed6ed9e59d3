"""The errors of Perdure, as a tree by the side whose fault they are.

    PerdureError
    ├── UsageError            the caller's: wrong arguments, place or order. Nothing was recorded
    │   ├── DefinitionError     a workflow or activity is declared in a way that cannot work
    │   ├── PayloadError        a value cannot be encoded or decoded, or is too large
    │   │   ├── EncodeError
    │   │   ├── DecodeError
    │   │   └── PayloadTooLarge
    │   ├── InvalidId           an id is empty, too long, or holds reserved characters
    │   ├── WorkflowViolation   a workflow did I/O, started a thread, slept, or used a foreign loop
    │   └── LimitExceeded       a declared limit (history, KV, status, inbox) would be crossed
    ├── NotFound              no instance has this id
    ├── AlreadyStarted        the id belongs to another instance than this start means
    ├── NotRunning            the instance has ended, so the request has no effect
    ├── StillRunning          the instance (or a child of it) has not ended, so it is not deleted
    ├── HasParent             the instance belongs to another one, and goes with it
    ├── InboxFull             the instance has too many unconsumed messages
    ├── Timeout               a wait of the client reached its limit, and the work goes on
    ├── Suspended             a wait ended because the instance cannot go on until people act
    ├── WorkflowFailed        the instance ended without a result: `.failure` says why
    │   ├── WorkflowCancelled
    │   └── WorkflowTerminated
    ├── ActivityError         inside a workflow: an activity failed for good, `.failure` says why
    │   └── ActivityTimeout
    ├── ChildError            inside a workflow: a child ended without a result
    ├── ApplicationError      yours to raise: a failure that is final, or that carries details
    │   └── RetryAfter          yours to raise in an activity: when to try again
    └── StoreError            the store's fault
        ├── StoreUnavailable    an operation failed: `.outcome` says whether it may have happened
        │   └── StoreMoved        everything is in another store: `.moved_to` names it
        ├── StoreLocked         another process owns the store
        └── StoreFormat         no Perdure store, a corrupt one, or one of another version

Every message says what happened, to which id, and what to do about it. Each docstring explains the
class to its users: what happened, why, what to do, an example. `perdure explain NAME` prints it,
and docs/errors.md is made of these docstrings.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DELAY_MAX_S = 10 * 366 * 86_400.0

Category = Literal["application", "configuration", "infrastructure", "poison", "cancelled"]


class Failure(msgspec.Struct, array_like=True, frozen=True, gc=False, omit_defaults=True):
    """A failure as data, for journals, listings and messages. No exception object is stored.

    `type` is the exception's class name. `traceback` holds the formatted frames, and is empty where
    there is no code to show. `causes` is the chain of `__cause__`, nearest first. `details` is an
    encoded payload given by `ApplicationError`. `parts` are the exceptions of an exception group,
    such as a `TaskGroup` raises: each with its own traceback, and 20 at most. `retry_after_ms` is
    the delay before the next attempt that `RetryAfter` asks for.
    """

    # The order of the fields is a format: a failure is journaled as an array. New fields go to the
    # end, with defaults.
    type: str
    message: str
    category: Category = "application"
    retryable: bool = True
    traceback: str = ""
    causes: tuple[tuple[str, str], ...] = ()
    details: bytes | None = None
    parts: tuple[Failure, ...] = ()
    retry_after_ms: int | None = None

    def display(self) -> str:
        """One line for people: the category, the type, the message and the parts.

        The category is left out where it is the application's.
        """
        line = self.type
        if self.category != "application":
            line = f"{self.category}: {line}"
        if self.message:
            line = f"{line}: {self.message}"
        parts = in_short([f"{part.type}: {part.message}" for part in self._single()])
        # The error of an activity or a child takes over the parts of the error that it wraps, and
        # its message names them already.
        if parts in line:
            return line
        return f"{line} [{parts}]"

    def _single(self) -> Iterator[Failure]:
        """The failures of all groups in it that are no groups themselves."""
        for part in self.parts:
            if part.parts:
                yield from part._single()
            else:
                yield part


class PerdureError(Exception):
    """The root of every error that Perdure raises on purpose.

    - Why: `except PerdureError` catches the errors of this library, and nothing else.
    - Do: catch the classes below it where you can act on them. Let the others pass.
    """

    @property
    def page(self) -> str:
        """Where docs/errors.md explains it, as a page and a heading. Offline: `perdure explain`."""
        # A class of the user's own has no heading there. Its nearest class of ours has one.
        kind = next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)
        return f"errors.md#{kind.__name__.lower()}"


class UsageError(PerdureError):
    """The call itself is wrong. Nothing was recorded. Correct the call.

    - Why: an argument has an impossible value, a function was called in the wrong place, or an
      object was used before it was opened or after it was closed.
    - Do: the message names the argument and the allowed values. Repeating the call gives the same
      error.
    - Example: `workflow.now() is for workflow code; here no workflow is running`
    """


class DefinitionError(UsageError):
    """A workflow or an activity is declared in a way that cannot work.

    - Why: a name that is taken, a workflow that is no `async def`, an unknown option, or a
      signature whose values cannot be data.
    - Do: correct the declaration that the message names. The error is raised when the module is
      imported, before anything runs.
    - Example: ``workflow 'checkout' must be an `async def`: a workflow waits, and only a coroutine
      can``
    """


class PayloadError(UsageError, ValueError):
    """A value cannot be stored or sent: the message names the field and the remedy.

    - Why: arguments, results and messages are stored, so they have to be data of the declared type,
      and not too large.
    - Do: see `EncodeError`, `DecodeError` and `PayloadTooLarge`.
    """


class EncodeError(PayloadError):
    """A value would not arrive as what it is: the message gives the path of the part.

    - Why: an open file, a connection, a lambda or an object of a plain class cannot be stored and
      read back elsewhere. And an argument, a result or a message of another type than its
      annotation would arrive as something else.
    - Do: pass data of the annotated type: numbers, text, bytes, lists, dicts, dataclasses, msgspec,
      attrs or pydantic types. Connections belong into `app.resources`, and activities get them
      there.
    - Example: ``cannot encode argument 'cents' of workflow 'checkout': Expected `int`, got
      `Cart` ``
    """


class DecodeError(PayloadError):
    """Stored or received data does not fit the declared type: the message gives the path.

    - Why: the sender does not know the type, or a constraint of it is not kept, or the type has
      changed since the value was stored.
    - Do: send values of the annotated types. After a change of types give new fields defaults, and
      keep old ones readable.
    - Example: ``argument 'cents' of workflow 'checkout': Expected `int`, got `str` ``
    """


class PayloadTooLarge(PayloadError):
    """A payload exceeds `Limits.payload_bytes`.

    - Why: payloads are in the journal, and the whole journal is read when an instance is loaded.
      Megabytes in it make that slow.
    - Do: put the content into a file or an object store in an activity, and return its name. Or
      raise the limit, `NodeOptions(limits=Limits(payload_bytes=...))`, which is 2 MiB by default.
    - Example: `the message for channel 'approved' has 3000006 bytes; the limit is 2097152
      (Limits.payload_bytes): ...`
    """


class InvalidId(UsageError, ValueError):
    """An id is empty, longer than 512 bytes, or holds a control character.

    - Why: ids are keys in the store, lines in lists, and words in commands.
    - Do: use 1 to 512 bytes of printable text, such as `order-1`.
    - Example: `an id must not be empty`
    """


class WorkflowViolation(UsageError, RuntimeError):
    """Workflow code did something that replay cannot repeat.

    - Why: a workflow is run again from the top whenever its instance is brought back. A clock, a
      random number, a file, a socket, a thread or a blocking sleep would give something else the
      second time, or happen twice. A node refuses at its start what its scan of the code finds.
      Files, sockets, processes, threads and sleeps are refused when they happen. So are clocks,
      chance and ids that the scan cannot see, on Python 3.12 and newer, unless an installed
      package reads them in C.
    - Do: the message names the line and the remedy: an activity for effects on the world,
      `workflow.now()`, `workflow.random()` and `workflow.uuid4()` for time and chance,
      `asyncio.sleep` for waiting. `@app.workflow(guard="warn")` and `"off"` are there for the rare
      case.
    - Example: `open('prices.txt') inside a workflow, at shop.py:12: replay would repeat it: do it
      in an activity`
    """


class LimitExceeded(UsageError):
    """A limit of the instance would be crossed: the message names it, and the option that sets it.

    - Why: an instance is loaded with all that it keeps. Limits keep one instance from hurting all
      others.
    - Do: shorten a long history by `workflow.continue_as_new` with fewer arguments. Keep less in KV
      and custom status. Or raise the option of `Limits` that the message names.
    - Example: `the KV store has 150 keys already (Limits.kv_keys), so 'k150' does not fit; delete
      some`
    """


class NotFound(PerdureError, LookupError):
    """No instance has this id: check the id and the store.

    - Why: the id is misspelt, the instance was never started or has been deleted, or this is
      another store than you think: `sqlite:///shop.db` is a file in the current folder.
    - Do: `perdure ls --prefix ...` lists the instances. A start that was posted while no node ran
      has not begun yet.
    - Example: `no instance has the id 'order-1'; check the id, or start it first`
    """


class AlreadyStarted(PerdureError):
    """The id is taken by an instance of another type or input, or the start forbids joining.

    - Why: the id makes a start idempotent. The same start again joins the instance that is there. A
      different start would be lost. `if_exists="reject"` refuses both.
    - Do: use another id, or `if_exists="replace"`, which ends the instance that is there and starts
      anew.
    - Example: `the id 'order-1' is taken and if_exists='reject' was asked for; use another id, or
      if_exists='replace'`
    """


class NotRunning(PerdureError):
    """The instance has already ended. Nothing was sent to it.

    - Why: it completed, failed or was cancelled before the message came.
    - Do: read its end with `result()` or `perdure show`. Start a new instance if there is more to
      do.
    - Example: `'order-1' has ended; nothing was sent to it`
    """


class StillRunning(PerdureError):
    """An instance that has not ended is deleted only with `force=True`.

    - Why: deleting takes the whole tree, and the instance or a descendant of it still runs. Nothing
      was removed.
    - Do: `cancel()`, then `wait()`, then delete. Or `delete(force=True)`, which first ends the
      instance without asking its code.
    - Example: `'order-1' is running; cancel it and wait for its end, or delete with force=True`
    """


class HasParent(PerdureError):
    """A child is deleted with its parent, not alone.

    - Why: the parent's history speaks of it, and a parent that still runs would wait for its end.
    - Do: delete the root of its tree, or use `force=True`. `handle.tree()` shows the tree.
    - Example: `'part-1' is a child of 'order-1' and goes with it: delete the root of its tree, or
      use force=True`
    """


class InboxFull(PerdureError):
    """The instance has as many unconsumed messages as `inbox_messages` allows.

    - Why: messages come faster than the workflow receives them, or it does not receive from that
      channel at all. Nothing was sent.
    - Do: try again later, slow the sender down, receive in a loop, or raise the limit:
      `Limits.inbox_messages` for the node's own client, `StoreLimits.inbox_messages` for others.
    - Example: `the inbox of 'order-1' is full: nobody received the messages that wait in it, and no
      more may (limit inbox_messages); try again later`
    """


class Timeout(PerdureError, TimeoutError):
    """A wait reached its limit. The work itself goes on.

    - Why: `timeout=` limits the waiting of the caller, not the workflow. The message says what the
      instance does now.
    - Do: wait again, later or longer, or cancel the instance. To limit the workflow itself put
      `asyncio.timeout` into its code.
    - Example: `'order-1' has not ended within 5 s; it is running (message approved). It goes on:
      wait again, or ...`
    """


class Suspended(PerdureError):
    """A wait ended because the instance is suspended: it does not go on until people act.

    - Why: its code is not there, does not fit its history, waits for something that nothing can
      bring, or failed again and again. `.reason` is one of the reasons below, and `.failure` has
      the details. Nothing is lost, and the instance has not ended.
    - Do: remove the cause (`perdure explain REASON`). Then it goes on, and the wait can be made
      again. `result(through_suspension=True)` and `wait(through_suspension=True)` do not end at a
      suspension. A paused instance goes on by `resume()`, so the wait for it does not end.
    - Example: `refund 'order-1' is suspended (not_registered): workflow 'refund' is not registered
      with this node's app. ...`
    """

    def __init__(self, message: str, reason: str, failure: Failure) -> None:
        """Keep the reason and the failure beside the readable form."""
        super().__init__(message)
        self.reason = reason
        self.failure = failure


class Failed(PerdureError):
    """An outcome that is a failure. `.failure` holds it as data.

    - Why: a workflow, an activity or a child ended without a result. Their errors derive from this.
    - Do: look at `.failure`: `type`, `message`, `category`, `retryable`, `traceback` and `causes`.
    """

    def __init__(self, message: str, failure: Failure) -> None:
        """Keep the failure beside its readable form."""
        # The message is all that `str` and log records show.
        super().__init__(message)
        self.failure = failure

    @property
    def retryable(self) -> bool:
        """Whether trying the same again could help."""
        return self.failure.retryable


class WorkflowFailed(Failed):
    """The workflow ended in an error. `.failure` has its type, message and traceback.

    - Why: an exception left the workflow's code, often an `ActivityError` that it did not catch.
    - Do: `perdure show ID` shows the call that failed. The instance has ended. Start a new one
      under another id, or with `if_exists="replace"`.
    - Example: `checkout 'order-1' failed: ActivityError: activity 'charge' failed after 1 attempt:
      ValueError: no card`
    """


class WorkflowCancelled(WorkflowFailed):
    """The workflow was cancelled and did not return a result.

    - Why: `cancel()` was called, or the parent ended, and the code let `CancelledError` pass after
      its clean-up.
    - Do: nothing, because this is how a cancelled instance ends. An instance that catches the
      cancellation and returns has completed.
    - Example: `approval 'order-1' was cancelled: out of stock`
    """


class WorkflowTerminated(WorkflowFailed):
    """The workflow was terminated. Its code was not asked.

    - Why: `terminate()` was called. No `finally` of the code ran, and nothing was undone.
    - Do: undo its effects by hand where that matters. Prefer `cancel()`.
    - Example: `approval 'order-1' was terminated: stuck since Monday`
    """


class ActivityError(Failed):
    """An activity failed for good: its attempts are used up or the error is not retryable.

    - Why: the workflow awaited the activity, and the error is raised there. `.failure` holds the
      exception of the activity as data.
    - Do: catch it where the workflow has an alternative. Otherwise the workflow fails with it. For
      transient errors give the activity a `RetryPolicy`, because it is tried once without it.
    - Example: `activity 'charge' failed after 1 attempt: ValueError: no card`
    """


class ActivityTimeout(ActivityError, TimeoutError):
    """An activity ran out of one of its timeouts. The message says which.

    - Why: one attempt took longer than `timeout`, all of them longer than `total_timeout`, no slot
      was free within `start_timeout`, or no heartbeat came for `heartbeat_timeout`. The running
      function was cancelled.
    - Do: raise the timeout, make the activity quicker, or let a long one call
      `activity.heartbeat()`.
    - Example: `activity 'pack' failed after 1 attempt: ActivityTimeout: activity 'pack', attempt 1:
      the attempt ...`
    """


class ChildError(Failed):
    """A child workflow ended without a result.

    - Why: the child failed, or was cancelled or terminated. The error is raised in the parent,
      where the child is awaited.
    - Do: catch it where the parent can go on without the child. `perdure show CHILD` tells more.
    - Example: `child workflow 'ship' (id 'order-1/5f0c1a2b.1.1') failed: ValueError: no address`
    """


class ApplicationError(PerdureError):
    """Raise it in an activity or a workflow to fail with a type name of your own choice.

    - Why: `retryable=False` ends the retries of an activity at once. `type` is the name that other
      code matches on. `details` (data) are a part of the failure.
    - Do: in the workflow catch `ActivityError` and look at `.failure.type`. Classes of your own may
      derive from it.
    - Example: `raise ApplicationError("the card has expired", type="CardDeclined",
      retryable=False)`
    """

    # For classes derived from it that do not call its `__init__`. No type: the class is the type.
    type: str = ""
    retryable: bool = True
    details: object = None

    def __init__(
        self,
        message: str,
        *,
        type: str | None = None,
        retryable: bool = True,
        details: object = None,
    ) -> None:
        """Describe the failure. `type` defaults to the class name."""
        super().__init__(message)
        # The name is journaled, and retry policies and other code match on it.
        self.type = type or self.__class__.__name__
        self.retryable = retryable
        self.details = details


class RetryAfter(ApplicationError):
    """Raise it in an activity to say when the next attempt may begin.

    - Why: a service that is asked too often, or that is being maintained, often says how long to
      wait. The time takes the place of the delay of the `RetryPolicy`, also if it is longer than
      `maximum_interval`.
    - Do: give the activity a `RetryPolicy`, which still decides whether there is another attempt:
      `maximum_attempts`, `non_retryable` and `total_timeout` hold. Without one the first failure
      goes to the workflow's code. A time that has passed means at once.
    - Example: `raise RetryAfter(float(response.headers["Retry-After"]), "the bank is busy")`
    """

    retry_after_ms: int | None = None

    def __init__(
        self,
        seconds: float | timedelta,
        message: str | None = None,
        *,
        type: str | None = None,
        details: object = None,
    ) -> None:
        """Ask for a delay, in seconds or as a timedelta. `type` defaults to the class name.

        Raises:
            UsageError: it is no duration, or longer than ten years.
        """
        delay_ms = _delay_ms(seconds)
        if message is None:
            message = f"try again in {delay_ms / 1000:g} s"
        super().__init__(message, type=type, details=details)
        self.retry_after_ms = delay_ms


def _delay_ms(delay: float | timedelta) -> int:
    """A delay in whole milliseconds, rounded up."""
    if isinstance(delay, timedelta):
        seconds = delay.total_seconds()
    else:
        seconds = delay
    # By exact types: a bool is an int. A comparison with NaN is false.
    if type(seconds) not in (int, float) or not seconds <= _DELAY_MAX_S:
        msg = (
            "RetryAfter needs seconds (a number) or a timedelta, of ten years at most, "
            f"got {delay!r:.60}"
        )
        raise UsageError(msg)
    # A time of the service that has passed meanwhile gives a negative delay.
    if seconds <= 0:
        return 0
    return math.ceil(seconds * 1000)


class StoreError(PerdureError):
    """The store refused or failed: the message names the file or server and the remedy.

    - Why: the store is concerned, not the workflow. All errors of stores derive from this.
    - Do: see `StoreUnavailable`, `StoreMoved`, `StoreLocked` and `StoreFormat`.
    """


class StoreUnavailable(StoreError):
    """The store did not answer. `outcome` is "none" or "unknown": it may have happened.

    - Why: no such file or folder, no right to write, a full or failing disk, or a store that has
      been closed.
    - Do: follow the message. Starts may be repeated as they are, because the id makes them
      idempotent. A node waits for its store, and goes on by itself when the store answers again. It
      stops only if `is_permanent`: the disk failed, so that its memory may be ahead of the file, or
      the file is gone. Start it again when the disk is sound.
    - Example: `the folder of nowhere/shop.db does not exist; create it: mkdir -p nowhere`
    """

    def __init__(
        self,
        message: str,
        outcome: Literal["none", "unknown"] = "none",
        *,
        permanent: bool = False,
    ) -> None:
        """Keep the outcome beside the message. `permanent`: no later try can succeed."""
        super().__init__(message)
        self.outcome: Literal["none", "unknown"] = outcome
        self.is_permanent = permanent


class StoreMoved(StoreUnavailable):
    """Everything in this store has been moved to another one, or is being moved now.

    - Why: `perdure move` copies a store, and seals it. `moved_to` is the URL of the new one.
    - Do: use that URL. After a move that was interrupted, run the same `perdure move` again.
    - Example: `shop.db has moved to sqlite:///new.db, and takes no more work; use that URL`
    """

    def __init__(
        self,
        message: str,
        outcome: Literal["none", "unknown"] = "none",
        moved_to: str | None = None,
    ) -> None:
        """Keep the new place beside the message. No later try can succeed."""
        super().__init__(message, outcome, permanent=True)
        self.moved_to = moved_to


class StoreLocked(StoreError):
    """Another process owns this store. The message names it.

    - Why: one node owns a SQLite file at a time. Another node is running, or a program such as a
      database browser holds the file locked in a transaction of its own.
    - Do: stop the other process, or wait for it with `?standby=true`. To start, send and read
      beside a running node use `Client.open(url)`, or `perdure start`, `send`, `ls`: these need no
      ownership.
    - Example: `shop.db is owned by process 4242 (node 6cc33b6a5c7e3706); stop it, or open the store
      with ...`
    """


class StoreFormat(StoreError):
    """The file is no Perdure store, is damaged, or was written by another version.

    - Why: the URL names another file than you think, the disk damaged it, it was copied while in
      use without its `-wal` file, a newer release has migrated it, or an older release wrote it and
      this process only reads. A format from before the first release is not read at all.
    - Do: check the path, restore a backup, run the newer release, or use `perdure migrate`. Nothing
      was written to the file.
    - Example: `notes.db is not a SQLite database; name another file, or restore this one from a
      backup`
    """


# A failure is journaled with the call that failed, and the journal is read whole when the instance
# is loaded. Long texts would make that slow.
_TEXT_MAX = 16_000
SHORT = 200
"""Characters of a text where several stand in one line."""
_IN_SHORT = 3


def clean_text(text: str) -> str:
    """Text that can be stored: lone surrogates are escaped, and a very long text is cut."""
    # msgspec and SQLite refuse lone surrogates, which file names and broken decoders produce.
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= _TEXT_MAX:
        return text
    return f"{text[:_TEXT_MAX]}... ({len(text) - _TEXT_MAX} more characters)"


def in_short(texts: Sequence[str]) -> str:
    """A few texts in one line."""
    shown: list[str] = []
    # A group may have hundreds of exceptions. The first few tell most of it.
    for text in texts[:_IN_SHORT]:
        short = text
        if len(text) > SHORT:
            short = f"{text[:SHORT]}..."
        shown.append(short)
    if len(texts) > _IN_SHORT:
        shown.append(f"{len(texts) - _IN_SHORT} more")
    return "; ".join(shown)
