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

"""Memory that holds the arrays of a message, and that another process of the same user on the same host can open.

It is a memfd: it has no name that could be left behind, and the kernel frees it with the last process that has it,
whatever became of the others. Its pages are reserved before they are used, so that a lack of memory is an error here
and not a signal later, and it is sealed against shrinking before anybody else maps it. The other process opens it by
way of /proc, so that nothing has to be inherited; a number that only the two of them know tells whether it is the right
one, for a process of another host or container may have the same ids.
"""

import fcntl
import mmap
import os
import re
import secrets
from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional

from nvflare.app_common.executors.client_api.arrays import limits
from nvflare.app_common.executors.client_api.arrays.specs import ArrayRefused
from nvflare.app_common.executors.client_api.job_owner import told_by_kernel

# What the beginning of the memory holds: its number.
PREFACE = 64
_NUMBER_SIZE = 16

CAN_SHARE = hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")


class NotOnThisHost(Exception):
    """The memory is that of a process which cannot be reached from here."""


class SharedMemory:
    def __init__(self, size: int = PREFACE):
        """Reserves memory.

        Args:
            size: bytes, the preface included; see `grow`.

        Raises:
            ArrayRefused: there is not so much.
        """
        self.size, self._fd = 0, None
        with _refusing("memory for arrays cannot be had"):
            self._fd = os.memfd_create("client_api", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._number = secrets.token_bytes(_NUMBER_SIZE)
        try:
            self.grow(size)
            self.write(0, self._number)
        except BaseException:  # whatever it was, the memory is nobody's
            self.close()
            raise

    def grow(self, size: int) -> None:
        """Reserves memory up to this size.

        Raises:
            ArrayRefused: there is not so much.
        """
        missing = size - self.size
        if missing <= 0:
            return
        check_available(missing)
        with _refusing(f"{missing / 1e6:.0f} MB of memory cannot be reserved for arrays"):
            os.posix_fallocate(self._fd, self.size, missing)
        self.size = size

    def write(self, offset: int, content) -> None:
        """Writes bytes to reserved memory."""
        view = memoryview(content)
        while len(view):
            count = os.pwrite(self._fd, view, offset)
            view, offset = view[count:], offset + count

    def seal(self, size: int) -> None:
        """Cuts the memory to its final size, which nobody can change any more."""
        os.ftruncate(self._fd, size)
        self.size = size
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)

    def address(self) -> dict:
        """What another process needs to open it, as long as it is open here."""
        return {"pid": os.getpid(), "fd": self._fd, "number": self._number}

    @classmethod
    def open(cls, address: dict) -> "SharedMemory":
        """Opens what another process has sealed.

        Raises:
            NotOnThisHost: it is not there.
        """
        path = f"/proc/{address['pid']:d}/fd/{address['fd']:d}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as e:
            raise NotOnThisHost(f"{path}: {e.strerror}") from e
        memory = cls.__new__(cls)
        memory._fd, memory._number, memory.size = fd, address["number"], os.fstat(fd).st_size
        if not memory._is_sealed() or os.pread(fd, _NUMBER_SIZE, 0) != memory._number:
            memory.close()
            raise NotOnThisHost(f"{path} is something else")
        return memory

    def _is_sealed(self) -> bool:
        try:
            return bool(fcntl.fcntl(self._fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
        except OSError:
            return False  # no memfd at all

    def reserve_all(self) -> None:
        """Sees to it that no page is missing, whatever the other process did: using it can never be fatal.

        Raises:
            ArrayRefused: there is not enough memory.
        """
        missing = self.size - 512 * os.fstat(self._fd).st_blocks
        if missing > 0:
            check_available(missing)
        with _refusing(f"{self.size / 1e6:.0f} MB of memory cannot be reserved for arrays"):
            os.posix_fallocate(self._fd, 0, self.size)

    def map(self, is_private: bool) -> mmap.mmap:
        """Returns the memory, which stays as long as what is returned.

        Args:
            is_private: whether what is written to it is for this process only.

        Raises:
            ArrayRefused: this process may not have so much.
        """
        with _refusing(f"{self.size / 1e6:.0f} MB of memory cannot be mapped for arrays"):
            return mmap.mmap(self._fd, self.size, access=mmap.ACCESS_COPY if is_private else mmap.ACCESS_WRITE)

    def close(self) -> None:
        """Lets go of it here. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __del__(self):
        self.close()


class PrivateMemory:
    """Memory of this process alone, where arrays come in pieces from a process that shares none with it."""

    def __init__(self, size: int):
        check_available(size)
        self.size = size
        with _refusing(f"{size / 1e6:.0f} MB of memory cannot be had for arrays"):
            self._map = mmap.mmap(-1, max(size, 1), access=mmap.ACCESS_COPY)  # not a forked child's, too

    def write(self, offset: int, content) -> None:
        self._map[offset : offset + len(content)] = content

    def map(self, is_private: bool) -> mmap.mmap:
        return self._map

    def close(self) -> None:
        pass  # it goes with the last array


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Makes a lack of memory, or of whatever else it takes, a refusal that says so."""
    try:
        yield
    except OSError as e:
        raise ArrayRefused(f"{what}: {e.strerror}") from e


def check_available(size: int) -> None:
    """Raises ArrayRefused if so many bytes are more than what the host, or this process's cgroup, has left.

    A little is not looked up, which takes longer than to copy it.
    """
    if size < limits.LITTLE:
        return
    for of_what, left in memory_left().items():
        if size + limits.RESERVE > left:
            needed, there = f"{size / 1e6:.0f} MB", f"{max(left, 0) / 1e6:.0f} MB"
            raise ArrayRefused(f"the arrays need {needed} of memory, and {of_what} has {there} left")


def memory_left(root: str = "/") -> Dict[str, int]:
    """Returns how many bytes are left of what limits this process, as far as that is known.

    Args:
        root: where the files of /proc and /sys are.
    """
    left = {}
    available = _fields(os.path.join(root, "proc/meminfo")).get("MemAvailable")
    if available is not None:
        left["the host"] = available * 1024
    limits = [_left_in(folder, *names) for folder, names in _cgroup_folders(root)]
    known = [limit for limit in limits if limit is not None]
    if known:
        left["the cgroup (container)"] = min(known)
    return left


# Files of the limit and of what is used; the fields of memory.stat for what the kernel would give back: the page cache,
# also of files that are read again and again. What is in a memfd counts as anonymous there, and is in neither field.
_V2 = ("memory.max", "memory.current", "inactive_file", "active_file", "slab_reclaimable")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file")


def _cgroup_folders(root: str) -> List[tuple]:
    # From the process's own cgroup up to the root: each has a limit of its own.
    folders = []
    for line in told_by_kernel(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, names = ("sys/fs/cgroup/memory", _V1) if controllers else ("sys/fs/cgroup", _V2)
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            folders.append((os.path.join(root, base, *parts[:depth]), names))
    return folders


def _left_in(folder: str, limit_name: str, used_name: str, *reclaimable: str) -> Optional[int]:
    limit, used = (told_by_kernel(os.path.join(folder, name)) for name in (limit_name, used_name))
    if not limit.isdigit() or not used.isdigit():
        return None  # no limit, or no such cgroup
    stat = _fields(os.path.join(folder, "memory.stat"))
    return int(limit) - int(used) + sum(stat.get(name, 0) for name in reclaimable)


def _fields(path: str) -> Dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^(\w+):?\s+(\d+)", told_by_kernel(path), re.MULTILINE)}
