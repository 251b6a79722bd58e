"""Groups of the system's users: by name, and who is in them."""

import grp
import os
import pwd
from collections.abc import Iterable
from contextlib import suppress

from .errors import UsageError


def gid_of(group: str) -> int:
    """Return the number of a group, given by its name or number.

    Raises:
        UsageError: There is no such group.
    """
    try:
        by_number = group.isascii() and group.isdecimal()
        found = grp.getgrgid(int(group)) if by_number else grp.getgrnam(group)
    except (KeyError, OverflowError):
        raise UsageError(f"there is no group {group!a}") from None
    return found.gr_gid


def uids_of(group: str) -> frozenset[int]:
    """Return the users of a group: its members, and those whose own group it is.

    The latter as far as the system lists its users.

    Raises:
        UsageError: There is no such group.
    """
    gid = gid_of(group)
    uids = {user.pw_uid for user in pwd.getpwall() if user.pw_gid == gid}
    for name in grp.getgrgid(gid).gr_mem:
        with suppress(KeyError):  # a member who is no user (any more)
            uids.add(pwd.getpwnam(name).pw_uid)
    return frozenset(uids)


def accepted_owners(uids: Iterable[int], groups: Iterable[str]) -> frozenset[int]:
    """Return whose files are tasks: root's, this user's, and those who are named.

    Raises:
        UsageError: There is no such group.
    """
    return frozenset({0, os.geteuid(), *uids}).union(*map(uids_of, groups))
