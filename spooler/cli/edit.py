"""The command ``spool edit``: another header for a task that has not begun.

What is edited is a copy, so that nothing happens to the task before the result has
been read as one. The body is neither shown nor touched.
"""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
import msgspec

from ..clock import CLOCK
from ..codec import Header, decode
from ..errors import EXIT_FAILED, CorruptError, SpoolerError, UsageError
from ..moments import parse_at
from ..spooldir import control, editing, repair
from ..spooldir.reading import TaskFile
from ..spooldir.signing import is_signed
from ..spooldir.tracking import state_at
from ..task import BATCH, Name, State
from . import output
from .group import Call, dir_and_json

_EDIT_EXAMPLES: Final = """\b
Examples:
  spool edit 8c1f42d09ab3e617
  EDITOR="sed -i s/200/400/" spool edit 8c1f
"""


@click.command(epilog=_EDIT_EXAMPLES)
@click.argument("task_id", metavar="ID")
@dir_and_json
def edit(call: Call, task_id: str) -> None:
    """Edit the header of a task that waits or is held: its name, its arguments.

    The editor is $VISUAL, else $EDITOR, else vi. The body stays as it is. If the
    result cannot be read as a task nothing is changed, and your text is kept.

    An id may be shortened.
    """
    spool = call.open()
    found = repair.find(spool, task_id)
    name = control.not_begun(found, *control.NOT_BEGUN)
    task = repair.read(spool, found)
    path = found.path
    try:
        before = _shown(task, name)
        suffix = ".json" if _is_json(task) else ".txt"
        with _edited(name.id, before, suffix) as after:
            changed = not _is_same(before, after)
            if changed:
                head, header = _checked(after, task)
                name = _renamed(name, task.header, header, CLOCK.now_us())
                path = editing.replace(spool, found, task, head, name)
    finally:
        task.close()
    if call.json:
        facts = {"id": name.id, "task": name.task, "path": path, "changed": changed}
        output.say_json([facts])
    else:
        output.say([f"{name.id}  {'changed' if changed else 'unchanged'}  {name.task}"])
    if found.state is State.WAITING and state_at(path) is State.HELD:
        output.error(f"{name.id}: could not be put back, and is held: `spool release`")
        sys.exit(EXIT_FAILED)


# -- the text ---------------------------------------------------------------------


def _is_json(task: TaskFile) -> bool:
    return task.data.startswith(b"{")


def _shown(task: TaskFile, name: Name) -> bytes:
    """Return the header as it is shown: JSON over several lines, others as they are.

    With a key it has its id, which is computed from the file where there is none.

    A signature is not shown: there will be another.

    Raises:
        UsageError: It is of a kind that cannot be edited.
    """
    header = task.header
    if header.uwsgi:
        raise UsageError(
            f"{name.id}: is a uWSGI packet, which cannot be edited: remove it, and put"
            " a new one"
        )
    if header.task == BATCH:
        raise UsageError(f"{name.id}: is a batch, which cannot be edited")
    head = task.data[: header.body_offset]
    needs_id = header.key is not None and header.id is None
    signed = is_signed(head)
    if not _is_json(task):
        if signed:
            head = head[head.index(b"\n") + 1 :]
        return b"id=%s\n%s" % (name.id.encode(), head) if needs_id else head
    if needs_id or signed:
        keys = msgspec.json.decode(head, type=dict[str, msgspec.Raw])
        keys.pop("sig", None)
        if needs_id:
            keys["id"] = msgspec.Raw(b'"%s"' % name.id.encode())
        head = msgspec.json.encode(keys)
    return msgspec.json.format(head.strip(), indent=2) + b"\n"


def _is_same(before: bytes, after: bytes) -> bool:
    if before == after:
        return True
    try:
        return _line(before) == _line(after)
    except msgspec.DecodeError:
        return False


def _line(text: bytes) -> bytes:
    return msgspec.json.format(text.strip(), indent=-1)


def _checked(text: bytes, task: TaskFile) -> tuple[bytes, Header]:
    """Return the new header as it is to be written, and what it says.

    Raises:
        CorruptError: It cannot be read as a task; says where.
        UsageError: It says what cannot be changed.
    """
    has_body = task.size > task.header.body_offset
    try:
        header = decode(text, whole=True)
    except CorruptError as problem:
        if _is_json(task) and not text.startswith(b"{"):
            raise CorruptError(
                f"it was JSON, and does not begin with {{ any more; else: {problem}"
            ) from None
        raise
    if header is None:
        raise AssertionError("a whole file has no more to read")
    if text[header.body_offset :].strip():
        line = text[: header.body_offset].count(b"\n") + 1
        raise CorruptError(
            f"line {line}: text after the header; the body stays as it is"
        )
    if header.uwsgi or header.task == BATCH:
        raise UsageError("a task cannot be made a packet or a batch")
    if text.startswith(b"{"):
        head = _line(text[: header.body_offset]) + b"\n"
    else:
        head = text[: header.body_offset].rstrip(b"\r\n") + b"\n\n"
    decode(head, whole=not has_body)  # a key `body` beside a body, for one
    return head, header


def _renamed(name: Name, old: Header, new: Header, now_us: int) -> Name:
    """Return what the task is to be called.

    Raises:
        UsageError: What cannot be changed was changed.
    """
    if new.key != old.key:
        raise UsageError(
            "the key cannot be changed: remove the task, and put a new one"
        )
    if new.id not in (None, name.id) or (new.id is None and new.key is not None):
        raise UsageError(f"the id is {name.id} for ever")
    if new.key is not None and new.task != old.task:
        raise UsageError("the name of a task with a key cannot be changed")
    due_us = None
    if new.at != old.at:
        due_us = now_us if new.at is None else parse_at(new.at, now_us)
    priority = new.priority if new.priority != old.priority else None
    renamed = name.but(due_us=due_us, priority=priority)
    return msgspec.structs.replace(renamed, task=new.task)


# -- the editor -------------------------------------------------------------------


@contextmanager
def _edited(task_id: str, text: bytes, suffix: str) -> Iterator[bytes]:
    """Let somebody edit a text, in a file that nobody else can read.

    If anything goes wrong, in the editor or with what it left, the file is kept.

    Raises:
        SpoolerError: What went wrong, with the path of the file.
    """
    import tempfile  # noqa: PLC0415 (slow to load, and only needed here)

    fd, path = tempfile.mkstemp(suffix, f"spool-{task_id}-")
    with os.fdopen(fd, "wb") as file:
        file.write(text)
    try:
        _run_editor(path)
        with open(path, "rb") as file:
            after = file.read()
        yield after
    except (SpoolerError, OSError, ValueError) as problem:
        why = output.text_of(problem).removeprefix(f"{task_id}: ")
        raise SpoolerError(
            f"{task_id}: {why}; nothing was changed, and your text is in {path}"
        ) from None
    os.remove(path)


def _run_editor(path: str) -> None:
    import subprocess  # noqa: PLC0415 (as above)

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    # Ctrl-C is for the editor. A function, since "ignore" would be inherited.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        words = [*shlex.split(editor), path]
        code = subprocess.run(words, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    if code:
        raise SpoolerError(f"the editor ({editor}) ended with {code}")
