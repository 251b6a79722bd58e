"""Hooks: what may be one, when they are called, and what their errors change."""

from collections.abc import Callable, Iterator

import pytest

from spooler import (
    CurrentTask,
    UsageError,
    after_task,
    before_task,
    hooks,
    on_task_failure,
    on_worker_start,
    on_worker_stop,
)
from spooler.task import Outcome, Verdict

TASK = CurrentTask("0" * 16, "t", 1, 5, "/spool", 0)
LISTS = (hooks.START, hooks.STOP, hooks.BEFORE, hooks.AFTER, hooks.FAILURE)


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    yield
    for each in LISTS:
        each.clear()


def test_hooks_are_called_in_order_with_what_they_take() -> None:
    seen: list[object] = []
    on_worker_start(lambda: seen.append("start"))
    on_worker_stop(lambda: seen.append("stop"))
    before_task(lambda task: seen.append(("first", task)))
    before_task(lambda task: seen.append(("second", task)))
    after_task(lambda task: seen.append(("after", task)))
    on_task_failure(lambda task, error: seen.append((error, task)))
    hooks.started()
    hooks.before(TASK)
    hooks.after(TASK, Outcome(Verdict.ACK))
    hooks.after(TASK, Outcome(Verdict.RETRY, "E: no"))
    hooks.stopped()
    assert seen == [
        "start",
        ("first", TASK),
        ("second", TASK),
        ("after", TASK),
        ("E: no", TASK),
        ("after", TASK),
        "stop",
    ]


@pytest.mark.parametrize(
    ("verdict", "failed"),
    [
        (Verdict.ACK, False),
        (Verdict.AGAIN, False),
        (Verdict.RELEASE, False),
        (Verdict.RETRY, True),
        (Verdict.FAIL, True),
    ],
)
def test_a_failure_is_an_attempt_that_did_not_succeed(
    verdict: Verdict, failed: bool
) -> None:
    seen = []
    on_task_failure(lambda task, error: seen.append(error))
    hooks.after(TASK, Outcome(verdict, "why"))
    assert seen == ["why"] * failed


def test_a_decorated_function_stays_what_it_was() -> None:
    def function() -> str:
        return "here"

    assert on_worker_start(function) is function
    assert on_worker_start(function) is function
    assert [function] == hooks.START


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_an_error_in_a_hook_is_told_and_changes_nothing(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    @before_task
    def broken(task: CurrentTask) -> None:
        raise error

    before_task(lambda task: seen.append(task))
    hooks.before(TASK)
    assert seen == [TASK]
    (record,) = caplog.records
    name = f"{__name__}.test_an_error_in_a_hook_is_told_and_changes_nothing"
    assert record.getMessage() == (
        f"hook {name}.<locals>.broken raised {type(error).__name__}"
    )
    assert record.exc_info


async def async_hook(task: CurrentTask) -> None: ...


def generator_hook(task: CurrentTask) -> Iterator[None]:
    yield


async def async_generator_hook(task: CurrentTask):  # type: ignore[no-untyped-def] # its shape only
    yield


@pytest.mark.parametrize(
    ("register", "hook", "problem"),
    [
        (before_task, async_hook, "is async: a hook is a plain function"),
        (before_task, async_generator_hook, "is async"),
        (after_task, generator_hook, "is a generator"),
        (before_task, lambda: None, "is called with 1 argument: too many"),
        (after_task, lambda: None, "is called with 1 argument: too many"),
        (on_worker_start, lambda task: None, "with 0 arguments: missing"),
        (on_worker_stop, lambda task: None, "with 0 arguments: missing"),
        (on_task_failure, lambda task: None, "with 2 arguments: too many"),
        (on_worker_start, "start", "a hook is a function, not 'start'"),
    ],
)
def test_what_can_be_no_hook_is_refused(
    register: Callable[[object], object], hook: object, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        register(hook)
    assert not any(LISTS)


def test_a_function_without_a_signature_is_taken_at_its_word() -> None:
    assert before_task(min) is min
