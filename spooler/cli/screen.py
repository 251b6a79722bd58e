"""The state of a spool on one screen: what ``spool`` prints by itself.

A module of its own because what it needs takes longer to load than a put.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from ..moments import parse_at
from ..status import Overview, PauseFacts, RoomFacts
from .output import progress_text, relative, since, size_text, some, span, table

_PRIORITIES_SHOWN: Final = 5
_DAEMONS_SHOWN: Final = 2
_WORKERS_SHOWN: Final = 4
_UNKNOWN_SHOWN: Final = 3
_PAUSES_SHOWN: Final = 3


def screen(facts: Overview, now_us: int) -> list[str]:
    """Return an overview as lines: 24 at most in the usual case."""
    lines = [f"spool {facts['spool']}", *_priorities(facts, now_us)]
    if facts["retrying"]:
        lines.append(_retrying(facts["retrying"], facts["most_attempts"]))
    if facts["corrupt"]:
        lines.append(f"{facts['corrupt']} corrupt (see `spool ls corrupt`)")
    if facts["dropped"]:
        lines.append(f"{facts['dropped']} dropped and not adopted yet")
    if facts["held"]:
        lines.append(f"{facts['held']} held (see `spool ls held`)")
    lines += [*_paused(facts, now_us), *_room(facts["room"])]
    if facts["unreadable"]:
        folders = some(facts["unreadable"], "minute folder")
        lines.append(f"{folders} may not be read by you: not all is counted")
    lines += ["", *_processes(facts, now_us)]
    if facts["failures"]:
        lines += ["", "last failures (see `spool ls failed`, `spool show ID`)"]
        for each in facts["failures"]:
            age = since(each["failed"], now_us)
            reason = each["error"] or each["reason"]
            lines.append(f"  {each['id']}  {each['task']}  {age} ago  {reason}")
    return lines


def _retrying(count: int, most: int) -> str:
    up_to = "up to " if count > 1 and most > 1 else ""
    after = f"after {up_to}{some(most, 'attempt')}"
    return f"{count} retrying, {after} (see `spool ls retrying`)"


def _room(room: RoomFacts) -> list[str]:
    """Return a line of what is full, one of what nearly is, one of other limits."""
    if room["problem"] is not None:
        return [room["problem"]]
    texts = {}
    if room["max_waiting"] is not None:
        texts["max_waiting"] = f"{room['waiting']} of {room['max_waiting']} tasks wait"
    if room["min_free"] is not None:
        free, least = size_text(room["free"]), size_text(room["min_free"])
        texts["min_free"] = f"{free} free of at least {least}"
    if room["min_free_inodes"] is not None:
        inodes = "any" if room["free_inodes"] is None else room["free_inodes"]
        least = str(room["min_free_inodes"])
        texts["min_free_inodes"] = f"{inodes} inodes free of at least {least}"
    full = [texts.pop(what) for what in room["full"]]
    near = [texts.pop(what) for what in room["near"]]
    said = (
        ("full, puts are refused", full),
        ("nearly full", near),
        ("limits", list(texts.values())),
    )
    return [f"{what}: {', '.join(each)}" for what, each in said if each]


def _pauses_nothing(pause: PauseFacts) -> bool:
    named = pause["priority"] is not None or pause["task"] is not None
    return not named and pause["what"] != "all"


def _paused(facts: Overview, now_us: int) -> list[str]:
    lines = []
    # Files that pause nothing come last: they must not hide one that does.
    paused = sorted(facts["paused"], key=_pauses_nothing)
    for each in paused[:_PAUSES_SHOWN]:
        what = "everything is paused"
        if each["priority"] is not None:
            what = f"priority {each['priority']} is paused"
        elif each["task"] is not None:
            what = f"task {each['task']} is paused"
        elif _pauses_nothing(each):
            what = f"paused/{each['what']}"
        until = each["until"]
        end = "until resumed"
        if each["problem"] is not None:
            end = each["problem"]
        elif until is not None:
            end = f"for {span(parse_at(until, 0) - now_us)} more"
        lines.append(f"{what}: {end}" if each["problem"] else f"{what} {end}")
    return [*lines, *_more(facts["paused"], _PAUSES_SHOWN, "pause")]


def _priorities(facts: Overview, now_us: int) -> list[str]:
    header = ["priority", "waiting", "oldest", "later", "next", "running", "failed"]
    rows = [header]
    for each in facts["priorities"]:
        oldest, due = each["oldest"], each["next"]
        rows.append(
            [
                str(each["priority"]),
                str(each["waiting"]),
                "-" if oldest is None else since(oldest, now_us),
                str(each["later"]),
                # It may have become due since it was counted.
                "-" if due is None else relative(max(parse_at(due, 0), now_us), now_us),
                str(each["running"]),
                str(each["failed"]),
            ]
        )
    hidden = len(rows) - 1 - _PRIORITIES_SHOWN
    if hidden > 1:
        rows = rows[: _PRIORITIES_SHOWN + 1]
        rows.append([f"{hidden} more", *["…"] * 6])
    total = (str(facts[k]) for k in ("waiting", "later", "running", "failed"))
    waiting, later, running, failed = total
    rows.append(["all", waiting, "", later, "", running, failed])
    return table(rows, right=range(1, 7))


def _processes(facts: Overview, now_us: int) -> list[str]:
    lines = []
    for each in facts["daemons"][:_DAEMONS_SHOWN]:
        lines.append(f"daemon {_process(each, now_us)}")
    lines += _more(facts["daemons"], _DAEMONS_SHOWN, "daemon")
    # Those that run something are worth more of the screen.
    workers = sorted(facts["workers"], key=lambda each: not each.get("running"))
    for each in workers[:_WORKERS_SHOWN]:
        lines.append(f"worker {_process(each, now_us)}: {_runs(each, now_us)}")
    lines += _more(workers, _WORKERS_SHOWN, "worker")
    if lost := facts["lost"]:
        them = "it" if lost == 1 else "them"
        lines.append(f"{lost} held by dead workers: a daemon gives {them} back")
    if not facts["daemons"]:
        waits = facts["waiting"] or facts["later"] or facts["dropped"] or facts["lost"]
        lines.append(
            "no daemon is running"
            + (", so nothing will run: start spoold" if waits else "")
        )
    if facts["unknown"]:
        names = sorted(facts["unknown"].items(), key=lambda pair: -pair[1])
        shown = [f"{name} ({number})" for name, number in names[:_UNKNOWN_SHOWN]]
        if len(names) > _UNKNOWN_SHOWN:
            shown.append(f"{len(names) - _UNKNOWN_SHOWN} more")
        text = "unknown to every daemon (see spoold --import)"
        lines.append(f"{text}: {', '.join(shown)}")
    return lines


def _process(facts: Mapping[str, object], now_us: int) -> str:
    age = since(facts.get("started"), now_us)
    return f"{facts.get('pid')} on {facts.get('host')}, up {age}"


def _runs(worker: Mapping[str, object], now_us: int) -> str:
    running = worker.get("running")
    if not isinstance(running, list) or not running:
        return "idle"
    first = running[0]
    more = f" and {len(running) - 1} more" if len(running) > 1 else ""
    age = since(first["since"], now_us)
    said = progress_text(first.get("progress"))
    return f"runs {first['task']} {first['id']} for {age}{more}{said and f': {said}'}"


def _more(items: Sequence[object], shown: int, what: str) -> list[str]:
    hidden = len(items) - shown
    return [f"… and {hidden} more {what}{'s' * (hidden > 1)}"] if hidden > 0 else []
