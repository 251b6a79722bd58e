"""Make an entry of the registry from a function and what its decorator was given."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .arguments import Arguments
from .errors import ArgumentsError, UsageError
from .filling import check
from .limits import Limits
from .moments import duration
from .options import run_options
from .putting import check_priority, expires_for_file
from .registry import Entry, Kind
from .retry import RetryOptions
from .schedule import Schedule
from .task import BATCH, check_task_name


def make_entry(
    kind: Kind,
    function: Callable[..., Any],
    given: dict[str, Any],
    *,
    spool: str | None,
    schedule: Schedule | None,
    overlap: bool,
) -> Entry:
    """Return the entry of a function.

    Args:
        given: What the decorator was given, with followers as they stand in a file
            and without ``durability``; it is emptied.

    Raises:
        UsageError: The function or an option cannot be.
    """
    name = given.pop("name", None) or getattr(function, "__name__", "")
    check_task_name(name)
    if name == BATCH:
        raise UsageError(f"{BATCH!r} is the name of batches: give the task another")
    _check_runs(function, name)
    if schedule is not None:
        _check_timer(function)
    if given.get("expires") is not None:
        given["expires"] = expires_for_file(given["expires"])
    arguments = Arguments(function, name)
    key = given.pop("key", None)
    if key is not None:
        _check_key(function, arguments, key, schedule)
    entry = Entry(
        name=name,
        function=function,
        kind=kind,
        arguments=arguments,
        spool=spool,
        priority=check_priority(given.pop("priority", None)),
        pause=duration("pause", given.pop("pause", None)) or 0.0,
        schedule=schedule,
        overlap=overlap,
        is_async=inspect.iscoroutinefunction(function),
        run=run_options(given),
        key=key,
        limits=_limits(given, function, arguments),
        retry=_retry_options(given),
    )
    entry.check_run(entry.run)
    for option in ("unique_for", "if_exists"):
        if key is None and getattr(entry.run, option) is not None:
            raise UsageError(f"task {name}: {option}= needs key=")
    return entry


def _check_key(
    function: Callable[..., object],
    arguments: Arguments,
    key: object,
    schedule: Schedule | None,
) -> None:
    if schedule is not None:
        raise UsageError("a timer takes no key=: without overlap= its runs are unique")
    check("key", key, function, takes_dict=_takes_dict(arguments))


def _takes_dict(arguments: Arguments) -> bool:
    try:
        return arguments.wants_dict
    except ArgumentsError:  # a hint is not defined yet: then it shows at a call
        return True


def _limits(
    given: dict[str, Any], function: Callable[..., object], arguments: Arguments
) -> Limits | None:
    names = ("concurrency", "concurrency_key", "rate", "rate_key")
    found = {name: given.pop(name, None) for name in names}
    if all(value is None for value in found.values()):
        return None
    limits = Limits(**found)
    keys = [name for name in ("concurrency_key", "rate_key") if found[name] is not None]
    for name in keys:
        check(name, found[name], function, takes_dict=_takes_dict(arguments))
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return replace(limits, defaults=defaults) if keys and defaults else limits


def _retry_options(given: dict[str, Any]) -> RetryOptions:
    known = ("retries", "max_attempts", "backoff", "backoff_max", "jitter")
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UsageError(f"there is no option {unknown[0]!r} for a task")
    for name in ("backoff", "backoff_max"):
        if name in given:
            given[name] = duration(name, given[name])
    return RetryOptions(**given)


def _check_runs(function: Callable[..., object], name: str) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"task {name} is a generator: calling it would run nothing")


def _check_timer(function: Callable[..., object]) -> None:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            raise UsageError(
                f"timer {getattr(function, '__name__', function)}: its parameter"
                f" {parameter.name!r} needs a default, since nobody gives it a value"
            )
