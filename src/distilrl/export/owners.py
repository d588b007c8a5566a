"""Whose files these are: what is run as a program was written by the user or the system, and by nobody else."""

import os
import stat
from pathlib import Path

from distilrl.errors import FileError

try:
    import grp
    import pwd
except ImportError:  # Windows, where access is no matter of owners and modes
    pass


def check_owned(*paths: Path) -> None:
    """Refuses files and folders that another user of this machine owns or may write.

    What root owns is the system's. A group may write where it is the user's private one, which is named as the user and
    has no other member: a umask of 002 belongs to those.

    Raises:
        FileError: names the first such path, and how it becomes the user's own.

    Example::

        check_owned(folder, folder / "policy.c")
    """
    if not hasattr(os, "geteuid"):
        return
    for path in paths:
        about = path.stat()
        if about.st_uid not in (os.geteuid(), 0):
            raise FileError(
                f"{path} belongs to another user ({_name(about.st_uid)}), and to verify it would run it as you: copy "
                "the folder to one of your own if you trust whoever made it."
            )
        others = about.st_mode & stat.S_IWOTH or (about.st_mode & stat.S_IWGRP and not _private(about.st_gid))
        if others and not (path.is_dir() and about.st_mode & stat.S_ISVTX):  # sticky: none may replace what is yours
            raise FileError(
                f"{path} can be written by other users, and to verify it would run it as you: take that right away "
                f"(chmod go-w {path}) if you know that none of them did."
            )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # of another machine or container
        return f"number {uid}"


def _private(gid: int) -> bool:
    """Whether a group is root's, or the user's own and nobody else's."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return gid == 0 or (group.gr_name == user and set(group.gr_mem) <= {user})
