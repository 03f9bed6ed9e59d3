"""Workflows, and children: workflows that a workflow starts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from perdure.errors import UsageError
from perdure.kernel.data.definition import normal_version
from perdure.kernel.data.events import ParentClose
from perdure.kernel.data.placement import check_id
from perdure.kernel.execution import commands
from perdure.kernel.execution.execution import Execution, current_run
from perdure.workflow.caller import caller as _run

if TYPE_CHECKING:
    from perdure.kernel.data.definition import WorkflowDefinition


P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A = TypeVar("A")


class Workflow(Generic[P, R_co]):
    """A durable `async def`.

    In another workflow a call of it is a child. A client starts it as an instance of its own.
    """

    def __init__(self, definition: WorkflowDefinition) -> None:
        """Made by `app.workflow`."""
        self.definition = definition
        # As functools.wraps does it, so that `help` and documentation tools show the function.
        self.__name__ = definition.fn.__name__
        self.__qualname__ = definition.fn.__qualname__
        self.__module__ = definition.fn.__module__
        self.__doc__ = definition.fn.__doc__
        self.__wrapped__ = definition.fn

    @property
    def name(self) -> str:
        """The name in journals."""
        return self.definition.name

    @property
    def version(self) -> str:
        """The version of this definition."""
        return self.definition.version

    @property
    def fn(self) -> Callable[P, Coroutine[object, object, R_co]]:
        """The function as it was written."""
        return self.definition.fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R_co]:
        """Start a child now. Its result may be awaited now or later.

        Outside of a workflow it is the plain function, so that a test can call it.
        """
        run = current_run()
        if run is None:
            return self.definition.fn(*args, **kwargs)  # type: ignore[no-any-return]
        return _start_child(run, self.definition, args, kwargs, None, None, "cancel")

    def detach(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start it with no parent and return its id. It lives on when this workflow ends."""
        alone: Child[P, R_co] = Child(self.definition, None, None, "abandon")
        return alone.detach(*args, **kwargs)

    def __repr__(self) -> str:
        """Name it."""
        return f"<workflow {self.name} {self.version}>"


class Child(Generic[P, R_co]):
    """A workflow with options for a child: `await workflow.child(ship, id="ship-1")(order)`."""

    def __init__(
        self,
        definition: WorkflowDefinition,
        target: str | None,
        version: str | None,
        parent_close: ParentClose,
    ) -> None:
        """Made by `workflow.child`."""
        self._definition = definition
        self._target = target
        self._version = version
        self._parent_close: ParentClose = parent_close

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R_co]:
        """Start the child now. Its result may be awaited now or later."""
        run = _run("child()")
        return _start_child(
            run, self._definition, args, kwargs, self._target, self._version, self._parent_close
        )

    def detach(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start it with no parent and return its id."""
        run = _run("detach()")
        definition = self._definition
        data = definition.signature.draft(args, kwargs)

        def check() -> None:
            definition.signature.check(data)
            run.check_size(data, f"the input of workflow {definition.name!r}")

        return commands.start_detached(
            run, definition.name, self._version, data, self._target, check
        )


def _start_child(
    run: Execution,
    definition: WorkflowDefinition,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    target: str | None,
    version: str | None,
    parent_close: ParentClose,
) -> Coroutine[object, object, Any]:
    data = definition.signature.draft(args, kwargs)
    return commands.start_child(run, definition, version, data, target, parent_close)


def child(
    definition: Workflow[P, R],
    /,
    *,
    id: str | None = None,
    version: str | int | None = None,
    parent_close: ParentClose = "cancel",
) -> Child[P, R]:
    """A child with a name, a version, or a rule for when its parent ends first.

    `parent_close` is the child's fate when the parent ends or no longer waits: `"cancel"` (it may
    clean up), `"terminate"` or `"abandon"`. `version` is exact. None is the version of new runs.

    Raises:
        UsageError: an argument has a value of another kind.
        InvalidId: the id cannot be one.
    """
    if type(definition) is not Workflow:
        msg = f"workflow.child() needs a workflow (@app.workflow), got {definition!r}"
        raise UsageError(msg)
    if parent_close not in ("cancel", "terminate", "abandon"):
        msg = f"parent_close must be 'cancel', 'terminate' or 'abandon', got {parent_close!r}"
        raise UsageError(msg)
    target = None
    if id is not None:
        target = check_id(id)
    exact = None
    if version is not None:
        exact = normal_version(version)
    return Child(definition.definition, target, exact, parent_close)
