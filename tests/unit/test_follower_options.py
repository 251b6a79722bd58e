"""What may be said of followers: by a decorator, by a put, in the shell."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.helpers import tasks

from spooler import Spooler, Task, UsageError
from spooler.cli.spool import main
from spooler.codec import decode
from spooler.errors import TaskNameError
from spooler.known import Known, known_of
from spooler.options import Follower, RunOptions
from spooler.registry import REGISTRY
from spooler.spooldir import SpoolDir
from spooler.template import load


@pytest.fixture
def here(tmp_path: Path) -> Spooler:
    (tmp_path / "spool").mkdir()
    return Spooler(tmp_path / "spool", durability="fast")


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    before = dict(REGISTRY._entries)
    yield
    REGISTRY._entries = before


def options(spooler: Spooler) -> RunOptions:
    """Return what the one file in a spool says."""
    ((_, data),) = tasks(SpoolDir(spooler.path)).items()
    header = decode(data, whole=True)
    assert header is not None
    assert header.options is not None
    return header.options


@pytest.fixture
def task(here: Spooler) -> Task[..., None]:
    @here.spool
    def resize(photo: str, width: int = 100) -> None: ...

    return resize


MOMENT = datetime(2026, 11, 20, 21, 1, tzinfo=UTC)


def test_a_put_says_what_follows(here: Spooler, task: Task[..., None]) -> None:
    call = task.using(at="+5m", priority=8, traceparent="00-1").call("1.png")
    here.put("parent", then=[call, "other"], on_failure=here.call("third", {"a": 1}))
    found = options(here)
    first = Follower("resize", {"photo": "1.png"}, "+5m", 8, traceparent="00-1")
    assert found.then == (first, Follower("other"))
    assert found.on_failure == (Follower("third", {"a": 1}),)


@pytest.mark.parametrize(
    ("at", "written"),
    [
        (MOMENT, 1795208460.0),
        (timedelta(minutes=5), "+300.000000"),
        ("+1.5h", "+1.5h"),
        ("2026-11-20T21:01Z", "2026-11-20T21:01Z"),
        (12, 12),
    ],
)
def test_the_moment_of_a_follower(here: Spooler, at: Any, written: object) -> None:
    here.put("parent", then=here.call("next", at=at))
    then = options(here).then
    assert then is not None
    assert then[0].at == written


def test_no_followers_are_not_none(here: Spooler) -> None:
    here.put("parent", then=[])
    assert options(here) == RunOptions(then=())


def test_followers_have_options_and_followers(here: Spooler) -> None:
    second = here.call("second", then="third", keep_result="1h")
    here.put("first", then=second)
    inner = RunOptions(keep_result=3600.0, then=(Follower("third"),))
    assert options(here).then == (Follower("second", options=inner),)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda s, t: t, "missing argument 'photo'"),
        (lambda s, t: t.call(1), "argument 'photo'"),
        (lambda s, t: print, "a follower is a task or a call of one, not <built-in"),
        (lambda s, t: 5, "a follower is a task or a call of one, not 5"),
        (lambda s, t: [[t]], "a follower is a task or a call of one"),
        (lambda s, t: s.call("n", key="k"), "n: a follower cannot have key="),
        (lambda s, t: s.call("n", id="0" * 16), "n: a follower cannot have id="),
        (
            lambda s, t: Spooler("/elsewhere").call("n"),
            "n: a follower goes into the spool of the task that it follows, not into",
        ),
        (
            lambda s, t: s.call("n", body=b"\xff"),
            "n: the body of a follower is bytes of UTF-8 text",
        ),
        (lambda s, t: s.call("n", at="soon"), "at='soon' cannot be"),
        (lambda s, t: s.call("n", priority=-1), "priority=-1 cannot be"),
    ],
)
@pytest.mark.parametrize("word", ["then", "on_failure"])
def test_what_can_be_no_follower_is_refused_where_it_is_written(
    here: Spooler,
    task: Task[..., None],
    make: Callable[[Spooler, Task[..., None]], Any],
    problem: str,
    word: str,
) -> None:
    with pytest.raises(UsageError, match=problem):
        here.put("parent", None, **{word: make(here, task)})
    with pytest.raises(UsageError, match=problem):
        here.spool(**{word: make(here, task)})(lambda: None)
    assert tasks(SpoolDir(here.path)) == {}


def test_a_name_that_no_task_can_have_is_refused(here: Spooler) -> None:
    with pytest.raises(TaskNameError):
        here.put("parent", then="not a name")


def test_nothing_follows_a_function_that_runs_for_ever(
    here: Spooler, task: Task[..., None]
) -> None:
    @here.spoolforever(on_failure="other")
    def watch() -> None: ...

    with pytest.raises(UsageError, match="watch: then= cannot be, since it runs"):
        watch.using(then="other").spool()
    watch.using(then=[]).spool()

    def stare() -> None: ...

    with pytest.raises(UsageError, match="stare: then= cannot be, since it runs"):
        here.spoolforever(then="other")(stare)


def test_a_daemon_knows_what_is_put_when_a_task_is_given_up(here: Spooler) -> None:
    @here.spool(on_failure=here.call("other", {"a": [1, None]}))
    def parent() -> None: ...

    entry = REGISTRY.get("parent")
    assert entry is not None
    sent = msgspec.json.encode(msgspec.to_builtins(known_of(entry)))
    known = msgspec.json.decode(sent, type=Known)
    assert known.on_failure == (Follower("other", {"a": [1, None]}),)


@pytest.mark.parametrize("word", ["then", "on_failure"])
def test_a_decorators_follower_must_be_a_task(here: Spooler, word: str) -> None:
    @here.spool(**{word: "unknown"})  # type: ignore[call-overload,untyped-decorator] # the name is a parameter
    def parent() -> None: ...

    with pytest.raises(UsageError, match=f"task parent: {word}= names 'unknown'"):
        load([])

    @here.spool
    def unknown() -> None: ...

    load([])


def test_followers_are_named_in_the_shell(here: Spooler) -> None:
    words = ["put", "--dir", here.path, "parent", "a=1"]
    more = ["--then", "b", "--then", "c", "--on-failure", "d"]
    result = CliRunner().invoke(main, [*words, *more])
    assert result.exit_code == 0, result.output
    assert options(here) == RunOptions(
        then=(Follower("b"), Follower("c")), on_failure=(Follower("d"),)
    )


def test_a_name_in_the_shell_must_be_one(here: Spooler) -> None:
    words = ["put", "--dir", here.path, "parent", "--then", "no name"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "'no name' cannot be the name of a task" in result.output
    assert tasks(SpoolDir(here.path)) == {}
