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

"""The meeting point of a job and a trainer that somebody else starts: a file in the job's app config folder.

The job writes the rendezvous, a trainer finds and claims it. It holds the session's secret and the credentials of the
site, so a trainer takes only a regular file of its own user that nobody else can read. A claim is a lock on the file:
exclusive, and gone with the process that holds it, whatever ends that. The job removes the file once a trainer joined.
"""

import fcntl
import json
import os
import socket
import stat
from pathlib import Path
from typing import Iterable, Iterator, List, Optional

from nvflare.client.config import ConfigKey

RENDEZVOUS_FILE = "client_api_rendezvous.json"
# What ranks other than 0 need, who do not connect: no secret is in it.
RANKS_FILE = "client_api_ranks.json"

# Folders between a workspace, or one with several, and a job's folder.
_MAX_DEPTH = 5
_APP_PREFIX = "app_"

_OWNER_HOST, _OWNER_PID, _OWNER_START = "job_host", "job_pid", "job_start"


class RendezvousRefused(Exception):
    """A rendezvous is there, but must not be used; the text says why."""


class RendezvousGone(Exception):
    """The file was removed in between: claimed by another trainer, or the job has ended."""


class RendezvousTaken(Exception):
    """Another trainer of this user is claiming it right now."""


def describe_owner() -> dict:
    """Returns by what a trainer on the same host recognises that the job's process is gone."""
    pid = os.getpid()
    return {_OWNER_HOST: socket.gethostname(), _OWNER_PID: pid, _OWNER_START: _start_time(pid)}


def find_files(workspace: str, name: str, job: Optional[str] = None, site: Optional[str] = None) -> List[Path]:
    """Returns the files of this name in the apps' config folders below a folder, the oldest first.

    Args:
        workspace: a job's folder, a site's workspace with its jobs, or a folder with the workspaces of several sites.
        name: RENDEZVOUS_FILE or RANKS_FILE.
        job: only of this job: its folder has its id as name.
        site: only of this site: the app's folder is named after it.
    """
    found = []
    for app in _find_apps(Path(workspace), _MAX_DEPTH):
        if (job is None or app.parent.name == job) and (site is None or app.name == _APP_PREFIX + site):
            path = app / "config" / name
            try:
                found.append((path.lstat().st_mtime, path))
            except OSError:
                pass  # there is none
    return [path for _, path in sorted(found)]


def _find_apps(folder: Path, depth: int) -> Iterator[Path]:
    """Yields the app folders of all jobs; does not look into them: there may be a lot in there, and not of ours."""
    try:
        with os.scandir(folder) as entries:
            folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return  # removed in between, or not for us
    apps = [name for name in folders if name.startswith(_APP_PREFIX)]
    if apps:
        yield from (folder / name for name in apps)
    elif depth:
        for name in folders:
            yield from _find_apps(folder / name, depth - 1)


def find_ranks_file(
    workspace: str, job: Optional[str] = None, site: Optional[str] = None, done: Iterable[tuple] = ()
) -> Optional[Path]:
    """Returns what a rank other than 0 needs, of the job that was started last and is still there; or None.

    Args:
        workspace, job, site: see find_files.
        done: identities of files that are of no more interest.
    """
    for path in reversed(find_files(workspace, RANKS_FILE, job, site)):
        try:
            if identity_of(path.lstat()) not in done and not _is_orphaned(json.loads(path.read_bytes())):
                return path
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # the job has just ended, or it is none of ours
    return None


def identity_of(status: os.stat_result) -> tuple:
    """Returns by what the same file is recognised when it is found again."""
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _is_orphaned(content: dict) -> bool:
    """Tells whether the job's process is known to be gone; on another host it is not."""
    return content[_OWNER_HOST] == socket.gethostname() and content[_OWNER_START] != _start_time(content[_OWNER_PID])


class Claim:
    """An exclusive claim of a rendezvous; `close()` gives it up."""

    def __init__(self, path: Path):
        """Claims the rendezvous.

        Raises:
            RendezvousRefused: it is a symlink, somebody else's, readable by others, malformed, or its job is gone.
            RendezvousTaken: another trainer is claiming it.
            RendezvousGone: it has been removed.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise RendezvousGone(f"{path} was removed") from None
        except OSError as e:
            reason = "it is a symbolic link" if path.is_symlink() else e.strerror
            raise RendezvousRefused(f"{path} is refused: {reason}") from None
        try:
            self._check_file()
            self._lock()
            self.content = self._read()
            self.identity = identity_of(os.fstat(self._fd))
        except BaseException:  # also KeyboardInterrupt: a lock must not outlive the claim
            os.close(self._fd)
            raise

    def close(self) -> None:
        os.close(self._fd)

    def is_open(self) -> bool:
        """Whether the job still waits for a trainer here: it removes the file when one has joined, and at its end."""
        try:
            return identity_of(self.path.lstat()) == self.identity
        except OSError:
            return False

    def _check_file(self) -> None:
        status = os.fstat(self._fd)
        fault = ""
        if not stat.S_ISREG(status.st_mode):
            fault = "it is no regular file"
        elif status.st_uid != os.getuid():
            fault = f"it belongs to user {status.st_uid}, this is user {os.getuid()}"
        elif stat.S_IMODE(status.st_mode) != 0o600:
            fault = f"its mode is {stat.S_IMODE(status.st_mode):o} instead of 600, others may know its secret"
        if fault:
            raise RendezvousRefused(f"{self.path} is refused: {fault}")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RendezvousTaken(f"{self.path}: another trainer is claiming it") from None
        except OSError:
            pass  # a file system without locks; the job takes only one trainer anyway
        if os.fstat(self._fd).st_nlink == 0:
            raise RendezvousGone(f"{self.path} was removed")

    def _read(self) -> dict:
        with open(self._fd, "rb", closefd=False) as f:
            try:
                content = json.load(f)
            except (ValueError, RecursionError):
                content = None
        try:
            if not isinstance(content[ConfigKey.TASK_EXCHANGE][ConfigKey.PIPE][ConfigKey.ARG]["secret"], str):
                raise TypeError
            is_orphaned = _is_orphaned(content)
        except (KeyError, TypeError):
            raise RendezvousRefused(f"{self.path} is refused: it is truncated or no rendezvous") from None
        if is_orphaned:
            raise RendezvousRefused(f"{self.path} is refused: its job's process {content[_OWNER_PID]} is gone")
        return content


def _start_time(pid) -> str:
    """Returns when a process was started, in clock ticks; empty if there is none, or no /proc."""
    try:
        stat_line = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError, TypeError, OverflowError):
        return ""
    return stat_line.rpartition(")")[2].split()[19]
