"""What may be said about a task's run: in its file, in its decorator, at its put.

One struct for all three, so that the later one (the put) goes over the earlier one (the
decorator). Specification: docs/format.md, "Options".
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, cast, get_args

import msgspec

from .errors import TaskNameError, UsageError
from .moments import MAX_SECONDS, parse_at, positive, show
from .task import FORWARD, MAX_PRIORITY, check_task_name

IfExists = Literal["skip", "raise", "replace"]
"""What becomes of a put whose key is taken."""

MAX_KEY: Final = 200
"""Bytes of a uniqueness key."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS)]
TaskId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]


class RunOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one task is to be run; None leaves it to what is more general.

    Attributes:
        expires: The moment by which it must have begun, as ``at`` in a file.
        keep_result: Seconds.
        unique_for: Seconds, from the put.
        parent: The id of the task that this one follows.
    """

    soft_timeout: Seconds | None = None
    hard_timeout: Seconds | None = None
    expires: str | int | float | None = None
    keep_result: Seconds | None = None
    keep_log: bool | None = None
    unique_for: Seconds | None = None
    if_exists: IfExists | None = None
    then: "tuple[Follower, ...] | None" = None
    on_failure: "tuple[Follower, ...] | None" = None
    parent: TaskId | None = None


class Follower(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task that is put when another one is finished.

    Attributes:
        at: When it is due; ``+5m`` counts from the end of the task it follows.
    """

    task: str
    args: dict[str, Any] = {}
    at: str | int | float | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)] | None = None
    body: str | None = None
    options: RunOptions | None = None
    traceparent: str | None = None


NO_OPTIONS: Final = RunOptions()
"""Nothing was said."""


def over(later: RunOptions | None, earlier: RunOptions) -> RunOptions:
    """Return ``earlier`` with what ``later`` says in its place."""
    if later is None:
        return earlier
    if earlier is NO_OPTIONS:
        return later
    given = {
        name: value
        for name in RunOptions.__struct_fields__
        if (value := getattr(later, name)) is not None
    }
    return msgspec.structs.replace(earlier, **given)


def check_if_exists(value: object) -> IfExists | None:
    """Return ``value`` if it is such a word, or None; else raise ``UsageError``."""
    if value is None or value in get_args(IfExists):
        return cast("IfExists | None", value)
    raise UsageError(
        f"if_exists={value!r:.80} cannot be: it is 'skip', 'raise' or 'replace'"
    )


def check_flag(name: str, value: object) -> bool | None:
    """Return ``value`` if it is true, false or None; else raise ``UsageError``."""
    if value is None or isinstance(value, bool):
        return value
    raise UsageError(f"{name}={value!r:.80} cannot be: it is True or False")


_CHECKS: Final[dict[str, Callable[[str, Any], object]]] = {
    "soft_timeout": positive,
    "hard_timeout": positive,
    "keep_result": positive,
    "keep_log": check_flag,
    "unique_for": positive,
    "if_exists": lambda _, value: check_if_exists(value),
}


def run_options(given: dict[str, Any]) -> RunOptions:
    """Take the options of a run out of ``given``, checked; leave the others in it.

    ``expires``, ``then`` and ``on_failure`` are taken as they are: the caller has
    made them what the struct holds.

    Raises:
        UsageError: One cannot be.
    """
    found: dict[str, Any] = {}
    for name in RunOptions.__struct_fields__:
        value = given.pop(name, None)
        if value is not None:
            check = _CHECKS.get(name)
            found[name] = check(name, value) if check else value
    soft, hard = found.get("soft_timeout"), found.get("hard_timeout")
    if soft is not None and hard is not None and soft >= hard:
        raise UsageError(
            f"soft_timeout={soft:g} cannot be: it takes less than hard_timeout={hard:g}"
        )
    return RunOptions(**found) if found else NO_OPTIONS


def check_key(key: str) -> str:
    """Return ``key`` if a task may have it: 1 to 200 bytes of UTF-8, no NUL.

    Raises:
        ValueError: It may not.
    """
    if not key or "\0" in key or len(key.encode()) > MAX_KEY:
        raise ValueError(f"key: {show(key)} is not 1 to {MAX_KEY} bytes without a NUL")
    return key


def check_options(options: RunOptions) -> None:
    """Check what the types do not say, of followers too.

    Raises:
        ValueError: A moment is none, or the name of a follower cannot be one.
    """
    if options.expires is not None:
        try:
            parse_at(options.expires, 0)
        except ValueError as error:
            text = str(error).removeprefix("at: ").removeprefix("at is ")
            raise ValueError(f"options: expires: {text}") from None
    for follower in (*(options.then or ()), *(options.on_failure or ())):
        try:
            check_task_name(follower.task)
        except TaskNameError:
            raise ValueError(
                f"options: {show(follower.task)} cannot be the name of a follower"
            ) from None
        if follower.task == FORWARD:  # it would be the daemon's own file, whoever asks
            raise ValueError(f"options: {FORWARD} follows nothing")
        if follower.at is not None:
            parse_at(follower.at, 0)
        if follower.options is not None:
            check_options(follower.options)
