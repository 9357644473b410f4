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

"""The processes of a federation: which there are, what each of them is, and what they leave behind."""

import os
import re
import signal
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional

import psutil

FEDERATION_VARIABLE = "NVFLARE_TEST_FEDERATION"  # the federation's folder
OWNER_VARIABLE = "NVFLARE_TEST_PARTICIPANT"  # the participant that started a process

# What a process is, by a text in its command line; the first that fits.
ROLES = {
    "process_guard.py": "guard",
    "nvflare.private.fed.app.server.runner_process": "SJ",
    "nvflare.private.fed.app.client.worker_process": "CJ",
    "sub_start.sh": "shell",
    "nvflare.private.fed.app.server.server_train": "server",
    "nvflare.private.fed.app.client.client_train": "CP",
    "nvflare.private.fed.app.relay.relay": "relay",
    "client_api.attach": "trainer",
}
JOB_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
SECRET = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\"(?:secret|auth_token|token_signature)\"")
MAX_SECRET_FILE = 1024 * 1024
TCP_STATES = {"01": "ESTABLISHED", "0A": "LISTEN"}  # others by their number
PRIVATE = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Part:
    """A process: its pid, the participant that it belongs to, what it is, and the job that it works for, if any."""

    pid: int
    owner: str
    role: str
    job_id: str

    def send(self, number: signal.Signals) -> None:
        """Sends a signal; a process that has ended needs none."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def __str__(self):
        return f"{self.owner} {self.role} {self.pid} {self.job_id}".strip()


def find_parts(federation: Path) -> List[Part]:
    """All processes that were started in a federation and have not ended."""
    parts = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get(FEDERATION_VARIABLE) == str(federation) and process.status() != psutil.STATUS_ZOMBIE:
                parts.append(_describe(process, environment))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass  # it has ended, or is another user's
    return parts


def _describe(process: psutil.Process, environment: Dict[str, str]) -> Part:
    words = process.cmdline()
    # nvflare's processes have other identifiers in their command line, too.
    place = words[words.index("-n") + 1] if "-n" in words else " ".join([*words, process.cwd()])
    job = JOB_ID.search(place)
    role = _role(process, " ".join(words))
    return Part(process.pid, environment.get(OWNER_VARIABLE, ""), role, job.group() if job else "")


def _role(process: psutil.Process, command: str) -> str:
    for text, role in ROLES.items():
        if text in command:
            return role
    parent = process.parent()
    return "trainer" if parent and "process_guard.py" in " ".join(parent.cmdline()) else "other"


@dataclass(frozen=True)
class Credential:
    """A file with a key, a secret or a token in it."""

    path: Path
    mode: int

    @property
    def is_private(self) -> bool:
        return not self.mode & PRIVATE

    def __str__(self):
        return f"{self.mode:04o} {self.path}"


@dataclass(frozen=True)
class Inventory:
    """What there is of a federation at one moment."""

    parts: List[Part]
    sockets: List[str]  # listening or connected, of these processes
    credentials: List[Credential]
    client_api_files: List[Path]  # bootstrap files, rendezvous
    temporary_files: List[Path]

    def of_job(self, job_id: str) -> "Inventory":
        """What there is of one job."""
        parts = [part for part in self.parts if part.job_id == job_id]
        pids = {part.pid for part in parts}
        return Inventory(
            parts,
            [line for line in self.sockets if int(line.split()[0]) in pids],
            [credential for credential in self.credentials if job_id in str(credential.path)],
            [path for path in self.client_api_files if job_id in str(path)],
            [path for path in self.temporary_files if job_id in str(path)],
        )

    def __str__(self):
        lines = []
        for name, entries in vars(self).items():
            lines.append(f"{name.replace('_', ' ')}: {len(entries)}")
            lines += [f"  {entry}" for entry in entries]
        return "\n".join(lines)


def take_inventory(federation: Path, temporary: Path) -> Inventory:
    """Lists what there is of a federation: processes, sockets, credentials, files."""
    parts = find_parts(federation)
    files = [path for path in federation.rglob("*") if path.is_file() and not path.is_symlink()]
    return Inventory(
        parts,
        [line for part in parts for line in _sockets(part)],
        list(_credentials(files)),
        [path for path in files if path.name.startswith("client_api_config")],
        [path for path in temporary.rglob("*") if not path.is_dir()],
    )


def _sockets(part: Part) -> Iterator[str]:
    """The TCP sockets of a process, read in its own network namespace, where psutil does not look."""
    process = Path("/proc", str(part.pid))
    try:
        own = {os.readlink(link) for link in (process / "fd").iterdir()}
        tables = [
            line.split() for name in ("tcp", "tcp6") for line in (process / "net" / name).read_text().splitlines()
        ]
    except OSError:
        return  # it has ended
    for _, local, remote, state, *rest in tables:
        if f"socket:[{rest[5]}]" in own:
            yield f"{part.pid} {part.owner} {part.role} {TCP_STATES.get(state, state)} {_end(local)} {_end(remote)}"


def _end(text: str) -> str:
    address, port = text.split(":")
    words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
    host = socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))
    return f"{host}:{int(port, 16)}"


def _credentials(files: List[Path]) -> Iterator[Credential]:
    for path in files:
        try:
            status = path.stat()
            if status.st_size <= MAX_SECRET_FILE and SECRET.search(path.read_bytes()):
                yield Credential(path, stat.S_IMODE(status.st_mode))
        except OSError:
            pass  # it was removed meanwhile


def memory_use(part: Part) -> Optional[dict]:
    """RSS in MB, threads and descriptors of a process; None if it has ended."""
    try:
        process = psutil.Process(part.pid)
        return {
            "rss": process.memory_info().rss / 1e6,
            "threads": process.num_threads(),
            "descriptors": process.num_fds(),
        }
    except psutil.NoSuchProcess:
        return None
