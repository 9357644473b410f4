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
site, so a trainer takes only a file that nobody else can read or replace (see private_files.py). A claim is a lock on
the file: exclusive, and gone with the process that holds it, whatever ends that. The job removes the file once a
trainer joined.

Ranks other than 0 do not connect. Rank 0 writes beside its rendezvous what they need, which is no secret, under a name
that only the ranks of its launch look for, and holds a lock on it: so they find its job and no other one's.
"""

import fcntl
import hashlib
import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO, Iterable, Iterator, List, Optional

from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.executors.client_api.session import limits, private_files
from nvflare.app_common.executors.client_api.session.private_files import FileRefused
from nvflare.client.config import ConfigKey

RENDEZVOUS_FILE = "client_api_rendezvous.json"
RANKS_FILES = "client_api_ranks_*.json"

# What the ranks of a launch have in common, and two launches at a time have not.
_LAUNCH_VARIABLES = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID")

_LOOPBACK = re.compile(r"localhost$|127\.|::1$")

_APP_PREFIX, _CONFIG_FOLDER = "app_", "config"


def ranks_file() -> str:
    """Returns the name of what the ranks of the launch that this process belongs to look for."""
    values = [os.environ.get(name, "") for name in _LAUNCH_VARIABLES]
    if _LOOPBACK.match(os.environ.get("MASTER_ADDR", "")):  # torchrun's default: the same for each launch on one host
        values.append(socket.gethostname())
    launch = "\n".join(values)
    return RANKS_FILES.replace("*", hashlib.sha256(launch.encode(errors="surrogateescape")).hexdigest()[:16])


def find_files(workspace: str, name: str, job: Optional[str] = None, site: Optional[str] = None) -> List[Path]:
    """Returns the files of this name in the apps' config folders below a folder, the oldest first.

    Args:
        workspace: a job's folder, a site's workspace with its jobs, or a folder with the workspaces of several sites;
            symbolic links below it are not followed.
        name: RENDEZVOUS_FILE or ranks_file().
        job: only of this job: its folder has its id as name.
        site: only of this site: the app's folder is named after it.
    """
    found = []
    for app in _find_apps(Path(os.path.realpath(workspace)), limits.MAX_DEPTH):
        if (job is None or app.parent.name == job) and (site is None or app.name == _APP_PREFIX + site):
            path = app / _CONFIG_FOLDER / name
            with suppress(OSError):  # there is none
                found.append((path.lstat().st_mtime, path))
    return [path for _, path in sorted(found)]


def _find_apps(folder: Path, depth: int) -> Iterator[Path]:
    """Yields the app folders of all jobs; does not look into them: there may be a lot in there, and not of ours."""
    try:
        with os.scandir(folder) as entries:
            folders = [folder / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return  # removed in between, or not for us
    for inner in folders:
        # Other folders may have such a name, too.
        if inner.name.startswith(_APP_PREFIX) and os.path.isdir(inner / _CONFIG_FOLDER):
            yield inner
        elif depth:
            yield from _find_apps(inner, depth - 1)


def find_ranks_file(
    workspace: str, job: Optional[str] = None, site: Optional[str] = None, done: Iterable[tuple] = ()
) -> Optional[tuple]:
    """Returns the path of what rank 0 of this launch has for its other ranks, and its identity; None if it has nothing.

    Args:
        workspace, job, site: see find_files.
        done: identities of files that are of no more interest.
    """
    for path in find_files(workspace, ranks_file(), job, site):
        # The job may have just ended, or the file be none of ours.
        with suppress(OSError, ValueError), private_files.open_private(path) as file:
            identity = identity_of(os.fstat(file.fileno()))
            if identity not in done and _is_locked(file) and not private_files.read_private(file)[1].is_gone:
                return path, identity
    return None


def _is_locked(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # it is, or the file system knows no locks
        return True
    return False  # and not by us: the file is closed soon


def identity_of(status: os.stat_result) -> tuple:
    """Returns by what the same file is recognised when it is found again."""
    return status.st_dev, status.st_ino, status.st_mtime_ns


class Claim:
    """An exclusive claim of a rendezvous; `close()` gives it up."""

    def __init__(self, path: Path):
        """Claims the rendezvous.

        Raises:
            FileRefused: others can read or replace it, it is malformed, or its job is gone.
            BlockingIOError: another trainer of this user is claiming it right now.
            FileNotFoundError: it has been removed: claimed by another trainer, or the job has ended.
        """
        self.path = Path(os.path.realpath(path.parent), path.name)
        self._ranks_file: Optional[IO] = None
        self._ranks_path = ""
        self._file = private_files.open_private(self.path)
        try:
            self._lock()
            self.content = self._read()
            self.identity = identity_of(os.fstat(self._file.fileno()))
        except BaseException:  # also KeyboardInterrupt: a lock must not outlive the claim
            self._file.close()
            raise

    def tell_ranks(self) -> None:
        """Has the other ranks of this launch find this job, until the claim is closed or this process ends.

        Raises:
            FileNotFoundError: the job has ended, and its folder is gone; the claim is closed.
            FileRefused: the file for them cannot be written; the claim is closed.
        """
        names = (FLMetaKey.SITE_NAME, FLMetaKey.JOB_ID, ConfigKey.TASK_EXCHANGE)
        content = {name: self.content[name] for name in names if name in self.content}
        exchange = dict(content[ConfigKey.TASK_EXCHANGE])
        exchange.pop(ConfigKey.PIPE)  # with the secret
        content[ConfigKey.TASK_EXCHANGE] = exchange
        self._ranks_path = str(self.path.with_name(ranks_file()))
        try:
            self._ranks_file = private_files.create_private(self._ranks_path, content)
        except OSError as e:
            self.close()
            if isinstance(e, FileNotFoundError):
                raise
            raise FileRefused(f"{self._ranks_path} cannot be written: {e.strerror}") from None

    def close(self) -> None:
        if self._ranks_file:
            private_files.remove(self._ranks_path)
        self.let_go()

    def let_go(self) -> None:
        """Closes the files in this process; in a forked child the claim stays the parent's."""
        self._file.close()
        if self._ranks_file:
            self._ranks_file.close()
            self._ranks_file = None

    def is_open(self) -> bool:
        """Whether the job still waits for a trainer here: it removes the file when one has joined, and at its end."""
        try:
            return identity_of(self.path.lstat()) == self.identity
        except OSError:
            return False

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks; the job takes only one trainer anyway
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise FileNotFoundError(f"{self.path} was removed")

    def _read(self) -> dict:
        try:
            content, owner = private_files.read_private(self._file)
            if not isinstance(content[ConfigKey.TASK_EXCHANGE][ConfigKey.PIPE][ConfigKey.ARG]["secret"], str):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise FileRefused(f"{self.path} is refused: it is truncated or no rendezvous") from None
        if owner.is_gone:
            raise FileRefused(f"{self.path} is refused: its job's process {owner.pid} is gone")
        return content
