# Copyright (c) 2026, NVIDIA CORPORATION.  All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Files between a job and its trainers: written, read and replaced by this user alone, and found if their job has died.

What is read is the open file that was checked. Nobody else can put another file in its place before `flare.init()`
reads it by its path, because no folder above it is one that others can write. Each file names the process that owns it,
in its content, and while it is being written in its name, so that what a killed job has left is told from the rest.
"""

import fcntl
import grp
import json
import os
import pwd
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, Iterable, List, Tuple

from nvflare.app_common.executors.client_api.job_owner import Owner, told_by_kernel
from nvflare.app_common.executors.client_api.session import limits

# What a file is named while it is being written; random letters and the owner follow.
TEMP_PREFIX = ".client_api_"

_OWNER = "job_owner"


class FileRefused(ValueError):
    """A file is there, but must not be used; the text names it and says why."""


def create_private(path: str, content: dict) -> IO:
    """Writes a file, as JSON, that only its owner can read; it is there at once and whole, or not at all.

    Args:
        path: of the file; one that is there is replaced.
        content: this process becomes its owner, unless it has one.

    Returns:
        The open file, which is locked until it is closed.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    owner = Owner.here()
    temp_path = os.path.join(os.path.dirname(path), f"{TEMP_PREFIX}{secrets.token_hex(4)}_{owner}")
    file = open(temp_path, "x", opener=lambda name, flags: os.open(name, flags, 0o600))  # before it has any content
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        json.dump({_OWNER: str(owner), **content}, file)
        file.flush()
        os.replace(temp_path, path)
    except BaseException:  # also KeyboardInterrupt
        remove(temp_path)
        file.close()
        raise
    return file


def remove(path: str) -> None:
    """Removes a file if it is there."""
    with suppress(OSError):  # never written, or its folder is gone with the job's workspace
        os.remove(path)


def open_private(path: Path) -> IO:
    """Opens a file that only this user can read or write, in a folder in which nobody else can put another one.

    Raises:
        FileNotFoundError: there is none.
        FileRefused: it is a symbolic link or no regular file, or others can read it, write it or replace it.
    """
    fault = _find_open_folder(path.parent)
    if fault:
        raise FileRefused(f"{path} is refused: {fault}")
    try:
        # Writable, because NFS makes of a lock on the file one on its bytes, and wants that for it.
        file = open(path, "r+b", buffering=0, opener=_open_no_link)
    except FileNotFoundError:
        raise
    except OSError as e:
        reason = "it is a symbolic link" if path.is_symlink() else e.strerror
        raise FileRefused(f"{path} is refused: {reason}") from None
    fault = _find_fault(os.fstat(file.fileno()))
    if fault:
        file.close()
        raise FileRefused(f"{path} is refused: {fault}")
    return file


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def read_private(file: IO) -> Tuple[dict, Owner]:
    """Returns the content of a file, and its owner.

    Raises:
        ValueError: it is malformed.
    """
    try:
        content = json.loads(file.readall())
        return content, Owner.parse(content[_OWNER])
    except (KeyError, TypeError, RecursionError):
        raise ValueError("it is no JSON object, or names no owner") from None


def remove_orphans(folders: Iterable[Path], names: Iterable[str]) -> List[Path]:
    """Removes the files of jobs whose processes are gone; returns which.

    Args:
        folders: that may have such files.
        names: patterns of them, in addition to those that were being written.
    """
    removed = []
    for folder in folders:
        for pattern in (*names, TEMP_PREFIX + "*"):
            for path in folder.glob(pattern):
                with suppress(OSError, ValueError):  # another's, or removed just now
                    if _read_owner(path).is_gone:
                        path.unlink()
                        removed.append(path)
    return removed


def _read_owner(path: Path) -> Owner:
    if path.name.startswith(TEMP_PREFIX):  # perhaps half-written
        return Owner.parse(path.name[len(TEMP_PREFIX) :].partition("_")[2])
    with open_private(path) as file:
        return read_private(file)[1]


def _find_fault(status: os.stat_result) -> str:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    if status.st_uid != os.getuid():
        return f"it belongs to user {status.st_uid}, this is user {os.getuid()}"
    if mode != 0o600:
        return f"its mode is {mode:o} instead of 600, others may know its secret"
    if status.st_size > limits.MAX_FILE_BYTES:
        return f"it has more than {limits.MAX_FILE_BYTES} bytes"
    return ""


def _find_open_folder(folder: Path) -> str:
    """Tells which folder above a file can be written by others, or "" if none can."""
    trusted = {0, os.getuid(), *_users_of_no_name()}
    for above in (folder, *folder.parents):
        try:
            status = os.stat(above, follow_symlinks=False)
        except OSError as e:
            return f"folder {above}: {e.strerror}"
        mode = status.st_mode
        if status.st_uid not in trusted:
            return f"folder {above} belongs to user {status.st_uid}"
        if stat.S_ISLNK(mode):
            return f"folder {above} is a symbolic link"
        if mode & stat.S_ISVTX and above != folder:
            continue  # as /tmp: others can add to it, and not replace what is ours
        if mode & stat.S_IWOTH or mode & stat.S_IWGRP and (_has_list(above) or not _is_own_group(status.st_gid)):
            return f"others can write folder {above} (its mode is {stat.S_IMODE(mode):o})"
    return ""


def _has_list(folder: Path) -> bool:
    """Whether a folder has an access control list: the group's bits of its mode are then those of all in it."""
    with suppress(AttributeError, OSError):  # no such thing here
        return "system.posix_acl_access" in os.listxattr(folder)
    return False


def _is_own_group(gid: int) -> bool:
    """Whether a group is the one that many systems give each user, with nobody else in it; its files may be open."""
    with suppress(KeyError):  # a user or group without a name
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
        return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    return False


def _users_of_no_name() -> set:
    # In a container that does not know its host's root (rootless, Apptainer) the host's own folders belong to this one;
    # so do those of its other users, who cannot be told from root there.
    id_map = told_by_kernel("/proc/self/uid_map").splitlines()
    is_partial = id_map and all(line.split()[1] != "0" for line in id_map)
    return {int(told_by_kernel("/proc/sys/fs/overflowuid") or 65534)} if is_partial else set()
