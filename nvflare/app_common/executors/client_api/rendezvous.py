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
from typing import List, Optional

RENDEZVOUS_FILE = "client_api_rendezvous.json"
# What ranks other than 0 need, who do not connect: no secret is in it.
RANKS_FILE = "client_api_ranks.json"

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
    """Returns the files of this name below a site's workspace (or a folder of several), the oldest first.

    Args:
        workspace: a folder.
        name: RENDEZVOUS_FILE or RANKS_FILE.
        job: only of this job: one of the folders on the way has its id as name.
        site: only of this site: the app's folder is named after it.
    """
    found = []
    for path in Path(workspace).rglob(name):
        folders = path.parts
        if (job is None or job in folders) and (site is None or f"app_{site}" in folders):
            try:
                found.append((path.lstat().st_mtime, path))
            except FileNotFoundError:
                pass  # claimed in between
    return [path for _, path in sorted(found)]


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
        except BaseException:  # also KeyboardInterrupt: a lock must not outlive the claim
            os.close(self._fd)
            raise

    def close(self) -> None:
        os.close(self._fd)

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
        if os.fstat(self._fd).st_nlink == 0:
            raise RendezvousGone(f"{self.path} was removed")

    def _read(self) -> dict:
        with open(self._fd, "rb", closefd=False) as f:
            try:
                content = json.load(f)
            except ValueError:
                content = None
        if not isinstance(content, dict) or not {_OWNER_HOST, _OWNER_PID, _OWNER_START} <= content.keys():
            raise RendezvousRefused(f"{self.path} is refused: it is truncated or no rendezvous")
        if content[_OWNER_HOST] == socket.gethostname() and content[_OWNER_START] != _start_time(content[_OWNER_PID]):
            raise RendezvousRefused(f"{self.path} is refused: its job's process {content[_OWNER_PID]} is gone")
        return content


def _start_time(pid) -> str:
    """Returns when a process was started, in clock ticks; empty if there is none, or no /proc."""
    try:
        stat_line = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError, TypeError):
        return ""
    return stat_line.rpartition(")")[2].split()[19]
