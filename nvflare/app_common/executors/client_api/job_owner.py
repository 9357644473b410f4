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

"""The process of a job, as another process recognises it: whose a file is, or a process tree, once that may be gone."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Optional

_INITIAL_NAMESPACE = "4026531836"  # of a Linux host, in which its processes outside of containers are


class Owner(NamedTuple):
    """The process of a job, as another process recognises it, perhaps on another host."""

    pid: str
    start: str  # in clock ticks; empty where there is no /proc
    namespace: str  # of its pid
    boot: str  # of the host's kernel
    host: str

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        namespace = ""
        with suppress(OSError):
            namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        boot = told_by_kernel("/proc/sys/kernel/random/boot_id")
        return cls(str(os.getpid()), _start_time(os.getpid()) or "", namespace, boot, socket.gethostname())

    @classmethod
    def parse(cls, text) -> "Owner":
        """Raises ValueError: it is none."""
        parts = text.split("_", len(cls._fields) - 1) if isinstance(text, str) else ()
        if len(parts) != len(cls._fields) or not (parts[0].isascii() and parts[0].isdigit() and len(parts[0]) < 20):
            raise ValueError(f"not the description of a process: {text!r}")
        return cls(*parts)

    def __str__(self):
        return "_".join(part.replace("/", "-") for part in self)

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to be gone.

        Of one in another PID namespace or on another host it is not, nor where /proc cannot be read now.
        """
        here = Owner.here()
        if self.namespace != here.namespace:
            return False
        if self.boot == here.boot and (self.boot or self.host == here.host):  # a host may be given another name
            return _start_time(self.pid) not in (self.start, None)
        are_known = self.boot != "" and here.boot != ""
        return are_known and self.host == here.host and self.namespace == _INITIAL_NAMESPACE  # it was rebooted


def _start_time(pid) -> Optional[str]:
    """Returns when a process was started, in clock ticks; empty if there is none that lives, or no /proc.

    None: that cannot be known, as where this process has no descriptor left.
    """
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[:1] in (["Z"], ["X"]) and int(fields[17]) < 2:
        return ""  # where other threads live on it is the main thread alone that has ended
    return "".join(fields[19:20])


def told_by_kernel(path: str) -> str:
    """Returns what a small file of the kernel's says; empty if there is none, or if it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""
