"""Read a configuration file of uWSGI as uWSGI 2.0.31 itself reads it.

First the file, line by line: loops, conditions and includes take place at once. Then
what stands for something else is replaced in the values. Then the options take place,
in order. What they mean here, and which mean nothing, says ``ini_settings``.
"""

import grp
import os
import pwd
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from glob import iglob
from typing import Final

from ...clock import CLOCK
from ...errors import UsageError
from .placeholders import calculate, number, put_letters, put_values

VERSION: Final = "2.0.31"
"""The uWSGI that this is: ``%V`` and ``uwsgi.version``."""

_ENDS: Final = frozenset({"end", "endfor", "endif", "end-if", "end-for"})
_SCHEME = re.compile(
    r"(emperor|http|data|sym|section|fd|exec|call|callint|https|file)://"
)
_OF_FILE: Final = "odspcnexij"
"""Letters that tell of the file that is read; capitals tell of the first one."""

_AT_ONCE: Final = frozenset(
    {
        "autoload",
        "blacklist",
        "command-mode",
        "dlopen",
        "early-envdir",
        "end-blacklist",
        "end-whitelist",
        "fallback-config",
        "flock",
        "flock-wait",
        "flock-wait2",
        "flock2",
        "immediate-gid",
        "immediate-uid",
        "inject-after",
        "inject-before",
        "listen",
        "need-plugin",
        "need-plugins",
        "pcre-jit",
        "plugin",
        "plugin-dir",
        "plugins",
        "plugins-dir",
        "spooler-processes",
        "strict",
        "umask",
        "whitelist",
    }
)
"""Other options that take place when they are read: nothing in them is replaced."""


@dataclass(slots=True)
class Option:
    """One line of the configuration.

    Attributes:
        done: It has taken place.
    """

    key: str
    value: str
    done: bool = False


Condition = Callable[["Reader", str], Iterable[str | None]]
"""For the argument of a loop or condition: what to put for ``%(_)``, once for each time
that a line counts; a None in it is put for nothing."""


class Reader:
    """Reads one configuration.

    Args:
        environ: The environment, for ``$(NAME)`` and conditions.

    Attributes:
        options: All lines, as ``uwsgi --show-config`` lists them.
        applied: The options that took place, in that order, by name and value.
        used: Options whose values stand in others.
        missing: What says so of each section that was asked for and is not there.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.options: list[Option] = []
        self.applied: list[tuple[str, str]] = []
        self.used: set[str] = set()
        self.missing: list[str] = []
        self._environ = dict(environ)
        self._custom: dict[str, str] = {}
        self._logic: Callable[[], Iterable[str | None]] | None = None
        self._in_logic = self._changed = False
        self._file = ""
        self._depth = 0
        self._letters = _letters()

    # -- reading ----------------------------------------------------------------

    def read(self, name: str) -> None:
        """Read ``file.ini`` or ``file.ini:section``, or ``:section`` of the last one.

        Raises:
            UsageError: It cannot be read, or asks for what cannot be done here.
        """
        if _SCHEME.match(name):
            raise UsageError(f"{name}: only files are read")
        file, colon, section = name.rpartition(":")
        if not colon:
            file, section = name, ""
        self._depth += 1
        if self._depth > 100:
            raise UsageError(f"{name}: it includes itself")
        try:
            self._put_file_letters(file, section)
            self._file = file or self._file
            text = put_letters(_data_of(self._file) + b"\0", self._letters)
            if not self._take_lines(text, section or "uwsgi"):
                missing = section or "uwsgi"
                self.missing.append(f"{self._file}: no section [{missing}]")
        finally:
            self._depth -= 1

    def _take_lines(self, text: str, wanted: str) -> bool:
        """Take the lines of one section; tell whether there were any."""
        section, found = "", False
        for raw in text.split("\n"):
            line = raw.partition("\0")[0].strip(" \t\r")
            if line.startswith("["):
                section = line[1:-1]
            elif line and line[0] not in ";#" and section == wanted:
                found = True
                key, _, value = line.partition("=")
                self.add(key.rstrip(" \t\r"), value.strip(" \t\r"))
        return found

    def _put_file_letters(self, file: str, section: str) -> None:
        letters = self._letters
        letters["o"], letters["x"] = file, section
        if file:
            path = file
            if not os.path.islink(file):
                path = os.path.realpath(file)
            elif not file.startswith("/"):
                path = f"{os.getcwd()}/{file}"
            letters |= _of_path(path)
        for letter in _OF_FILE:
            letters.setdefault(letter.upper(), letters.get(letter, ""))

    def _include(self, name: str) -> None:
        if not name.endswith(".ini"):
            raise UsageError(f"{name}: only files whose names end in .ini are included")
        self.read(name)

    # -- one line ---------------------------------------------------------------

    def add(self, key: str, value: str, *, placeholder: bool = False) -> None:
        """Take a line: now, as often as the loop or condition around it says.

        Args:
            placeholder: It is not an option, but stands for something.

        Raises:
            UsageError: As ``read``.
        """
        if not self._in_logic:
            if key in _ENDS:
                self._logic = None
            if self._logic is not None:
                self._in_logic = True
                try:
                    for word in self._logic():
                        shown = value if word is None else value.replace("%(_)", word)
                        self._add(key, shown, placeholder=placeholder)
                finally:
                    self._in_logic = False
                return
        self._add(key, value, placeholder=placeholder)

    def _add(self, key: str, value: str, *, placeholder: bool) -> None:
        option = Option(key, value, done=placeholder)
        self.options.append(option)
        self._changed = True
        if placeholder:
            return
        condition = _CONDITIONS.get(key)
        if condition is not None:
            self._begin_logic(key, condition, value)
        elif key in ("ini", "include"):
            (self.read if key == "ini" else self._include)(value)
        elif key in ("set", "set-placeholder", "set-ph"):
            name, equals, text = value.partition("=")
            if not equals:
                raise UsageError(f"{key} = {value}: it takes NAME=VALUE")
            self.add(name, text, placeholder=key != "set")
        elif key == "declare-option" or key in self._custom or key in _AT_ONCE:
            self._apply(key, value)
        elif key not in _ENDS:
            return
        option.done = True

    def _begin_logic(self, key: str, condition: Condition, value: str) -> None:
        if self._logic is not None:
            raise UsageError(f"{key}: loops and conditions cannot be nested")
        self._logic = lambda: condition(self, value)

    def find(self, key: str) -> str | None:
        """Return the first value of an option; None if there is none."""
        for option in self.options:
            if option.key == key:
                self.used.add(key)
                return option.value
        return None

    def environment(self, name: str) -> str | None:
        """Return a variable of the environment; None if there is none."""
        return self._environ.get(name)

    # -- all lines --------------------------------------------------------------

    def resolve(self) -> None:
        """Replace what stands for something else, then have all options take place.

        Raises:
            UsageError: As ``read``; or an option names itself.
        """
        self._replace("$", self._environ.get)
        self._replace("@", _content)
        self._replace("%", lambda name: calculate(name, self.find))
        self._changed = True
        while self._changed:
            self._changed = False
            for option in list(self.options):
                if not option.done:
                    option.done = True
                    self._apply(option.key, option.value)
                    if self._changed:
                        break

    def _replace(self, sign: str, find: Callable[[str], str | None]) -> None:
        for option in self.options:
            if not option.done:
                option.value = put_values(option.value, sign, find)

    def _apply(self, key: str, value: str) -> None:
        if key in self._custom:
            self._apply_custom(self._custom[key], value)
        elif key in ("declare-option", "declare-option2"):
            name, equals, template = value.partition("=")
            if not equals:
                raise UsageError(f"{key} = {value}: it takes NAME=TEMPLATE")
            self._custom[name] = template
        elif key == "inherit":
            self._include(value)
        else:
            self.applied.append((key, value))

    def _apply_custom(self, template: str, value: str) -> None:
        words = value.split()
        for part in filter(None, template.split(";")):
            key, equals, text = part.partition("=")
            if not equals:
                return
            for index, word in enumerate(words or [""], 1):
                key = key.replace(f"${index}", word)
                text = text.replace(f"${index}", word)
            self._apply(key, text)


# -- the letters ------------------------------------------------------------------


def _letters() -> dict[str, str]:
    """Return what the letters stand for that do not depend on a file."""
    uid, gid = os.getuid(), os.getgid()
    now = CLOCK.now_us()
    return {
        "%": "%",
        "(": "%(",
        "[": "\033",
        "b": os.path.abspath(sys.argv[0]),
        "v": os.getcwd(),
        "h": socket.gethostname(),
        "t": str(now // 1_000_000),
        "T": str(now),
        "V": VERSION,
        "k": str(os.cpu_count() or 1),
        "u": str(uid),
        "U": _name_of(uid, lambda: pwd.getpwuid(uid).pw_name),
        "g": str(gid),
        "G": _name_of(gid, lambda: grp.getgrgid(gid).gr_name),
    }


def _name_of(number: int, find: Callable[[], str]) -> str:
    try:
        return find()
    except KeyError:
        return str(number)


def _of_path(path: str) -> dict[str, str]:
    """Return what the letters stand for that tell of a file.

    Args:
        path: Absolute.
    """
    folder, _, name = path.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    parts = [part for part in folder.split("/") if part]
    letters = {str(digit): "" for digit in range(10)}
    letters |= {str(digit): part for digit, part in enumerate(parts[:10])}
    with suppress(OSError):  # it is not there: opening it will say so
        letters["i"] = str(os.lstat(path).st_ino)
    return {
        **letters,
        "p": path,
        "d": f"{folder}/",
        "s": name,
        "n": stem if dot else name,
        "e": ending if dot else "",
        "c": parts[-1] if parts else "",
        "j": _hash(os.fsencode(path)),
    }


def _hash(data: bytes) -> str:
    """Return Bernstein's hash (33, xor) of what C takes for signed characters."""
    value = 5381
    for byte in data:
        value = (value * 33 ^ (byte - 256 if byte > 127 else byte)) & 0xFFFFFFFF
    return value.to_bytes(4, "little").hex().upper()


def _data_of(path: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _content(path: str) -> str:
    text = os.fsdecode(_data_of(path))
    return text[:-1] if text.endswith(("\n", "\r")) else text


# -- loops and conditions -----------------------------------------------------------


def _when(fact: Callable[[str], bool], *, wanted: bool = True) -> Condition:
    def decide(_: Reader, argument: str) -> Iterable[str | None]:
        return [argument] if fact(argument) is wanted else []

    return decide


def _equal(find: str, *, wanted: bool) -> Condition:
    """Return a condition on ``NAME`` or ``NAME=VALUE`` of an option or variable."""

    def decide(reader: Reader, argument: str) -> Iterable[str | None]:
        name, equals, value = argument.partition("=")
        look = reader.find if find == "option" else reader.environment
        found = look(name)
        holds = found is not None and (not equals or found == value)
        return [found] if holds is wanted else []

    return decide


def _lines(path: str) -> list[str]:
    try:
        data = _data_of(path)
    except UsageError:
        return []
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    return [os.fsdecode(line.rstrip(b"\r")) for line in lines]


def _globbed(pattern: str) -> list[str]:
    found = sorted(iglob(pattern))
    return [f"{p}/" if os.path.isdir(p) else p for p in found] or [pattern]


def _is_readable(path: str) -> bool:
    return os.access(path, os.R_OK)


def _is_this_host(name: str) -> bool:
    return name == socket.gethostname()


def _is_like_this_host(pattern: str) -> bool:
    try:
        return re.search(pattern, socket.gethostname()) is not None
    except re.error as error:
        raise UsageError(f"{pattern}: {error}") from None


def _is_plugin(name: str) -> bool:
    return re.fullmatch(r"python\d*|spooler|signal|cron", name) is not None


_CONDITIONS: Final[Mapping[str, Condition]] = {
    "for": lambda _, words: filter(None, words.split(" ")),
    "for-glob": lambda _, pattern: _globbed(pattern),
    "for-times": lambda _, times: map(str, range(1, number(times) + 1)),
    "for-readline": lambda _, path: _lines(path),
    "if-opt": _equal("option", wanted=True),
    "if-not-opt": _equal("option", wanted=False),
    "if-env": _equal("environment", wanted=True),
    "ifenv": _equal("environment", wanted=True),
    "if-not-env": _equal("environment", wanted=False),
    "if-reload": lambda _, __: [],
    "if-not-reload": lambda _, __: [None],
    "if-hostname": _when(_is_this_host),
    "if-not-hostname": _when(_is_this_host, wanted=False),
    "if-hostname-match": lambda _, host: [None] if _is_like_this_host(host) else [],
    "if-not-hostname-match": lambda _, host: [] if _is_like_this_host(host) else [None],
    "if-exists": _when(_is_readable),
    "ifexists": _when(_is_readable),
    "if-not-exists": _when(_is_readable, wanted=False),
    "if-plugin": _when(_is_plugin),
    "ifplugin": _when(_is_plugin),
    "if-not-plugin": _when(_is_plugin, wanted=False),
    "if-file": _when(os.path.isfile),
    "if-not-file": _when(os.path.isfile, wanted=False),
    "if-dir": _when(os.path.isdir),
    "ifdir": _when(os.path.isdir),
    "if-directory": _when(os.path.isdir),
    "if-not-dir": _when(os.path.isdir, wanted=False),
}
