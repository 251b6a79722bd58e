"""Functions of the application that a worker calls around its life and its runs.

They are plain functions. What they raise is logged, and changes nothing else.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar

from .current import CurrentTask
from .errors import UsageError
from .task import Outcome, Verdict

Check = Callable[[CurrentTask], str]
WorkerHook = Callable[[], object]
TaskHook = Callable[[CurrentTask], object]
FailureHook = Callable[[CurrentTask, str], object]

START: Final[list[WorkerHook]] = []
STOP: Final[list[WorkerHook]] = []
BEFORE: Final[list[TaskHook]] = []
AFTER: Final[list[TaskHook]] = []
FAILURE: Final[list[FailureHook]] = []
"""What is registered, in order."""

CHECKS: Final[list[Check]] = []
"""Called before a run and its hooks, with no promise to users: each returns why the
task cannot run now; empty if it can."""

F = TypeVar("F", bound=Callable[..., object])

log = logging.getLogger(__name__)


def on_worker_start(function: F) -> F:
    """Have a worker call ``function()`` before its first task.

    After the fork, so connections that it opens are this worker's alone.

    Raises:
        UsageError: It cannot be called so, or is ``async``.
    """
    return _register(START, function, 0)


def on_worker_stop(function: F) -> F:
    """Have a worker call ``function()`` after its last task.

    Not when it is killed.

    Raises:
        UsageError: It cannot be called so, or is ``async``.
    """
    return _register(STOP, function, 0)


def before_task(function: F) -> F:
    """Have a worker call ``function(task)`` before each run.

    Args:
        function: Called with what ``current_task()`` returns.

    Raises:
        UsageError: It cannot be called so, or is ``async``.
    """
    return _register(BEFORE, function, 1)


def after_task(function: F) -> F:
    """Have a worker call ``function(task)`` after each run, however it ended.

    Args:
        function: Called with what ``current_task()`` returns.

    Raises:
        UsageError: It cannot be called so, or is ``async``.
    """
    return _register(AFTER, function, 1)


def on_task_failure(function: F) -> F:
    """Have a worker call ``function(task, error)`` after each run that failed.

    That is every failed attempt, whether it is the last one or not; but not a run
    whose worker was killed.

    Args:
        function: Called with what ``current_task()`` returns, and with the error
            in one line.

    Raises:
        UsageError: It cannot be called so, or is ``async``.
    """
    return _register(FAILURE, function, 2)


def _register(hooks: list[Any], function: F, arguments: int) -> F:
    name = _name(function)
    if not callable(function):
        raise UsageError(f"a hook is a function, not {function!r:.80}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"hook {name} is async: a hook is a plain function")
    if inspect.isgeneratorfunction(function):
        raise UsageError(f"hook {name} is a generator: calling it would run nothing")
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError as error:
        one = "argument" if arguments == 1 else "arguments"
        raise UsageError(
            f"hook {name} is called with {arguments} {one}: {error}"
        ) from None
    except ValueError:  # a function in C that does not say: the call will tell
        pass
    if function not in hooks:
        hooks.append(function)
    return function


def started() -> None:
    """Call the hooks for the start of a worker."""
    for hook in START:
        _call(hook)


def stopped() -> None:
    """Call the hooks for the end of a worker."""
    for hook in STOP:
        _call(hook)


def before(task: CurrentTask) -> Outcome | None:
    """Call what is to be called before a run; return how that ends, if it cannot be.

    Ask first whether ``CHECKS`` or ``BEFORE`` has any.
    """
    for check in CHECKS:
        if problem := check(task):
            return Outcome(Verdict.RETRY, problem, "exception")
    for hook in BEFORE:
        _call(hook, task)
    return None


def after(task: CurrentTask, outcome: Outcome) -> None:
    """Call the hooks after a run. Ask first whether there are any of either kind."""
    if outcome.verdict in (Verdict.RETRY, Verdict.FAIL):
        for failure in FAILURE:
            _call(failure, task, outcome.error)
    for hook in AFTER:
        _call(hook, task)


def _call(hook: Callable[..., object], *args: object) -> None:
    try:
        hook(*args)
    except BaseException as error:  # SystemExit too: the worker goes on
        log.exception("hook %s raised %s", _name(hook), type(error).__name__)


def _name(function: object) -> str:
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if name and module else f"{function!r:.80}"
