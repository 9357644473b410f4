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

"""Ends the trees that nobody owns: their client job process and their process guard were killed together.

The kernel ends the command with its guard, and nobody ends what else there is, such as ranks in sessions of their own.
So the tag of a tree tells who has launched it, and the next job that launches something on the host looks for them.
"""

import os
import re
import uuid
from pathlib import Path

from nvflare.app_common.executors.client_api.process import process_guard

_TAG = re.compile(rf"(?:^|\0){process_guard.TAG_NAME}=((\d+)-(\d*)-[0-9a-f]+)\0".encode())


def new_tag() -> str:
    """Returns a tag for a tree that this process launches."""
    here = process_guard.read_process(os.getpid())
    return f"{os.getpid()}-{here.start_time if here else ''}-{uuid.uuid4().hex}"


def end_orphans() -> int:
    """Kills the trees of this user whose launcher and guard are gone; returns how many processes that were.

    Where there is no /proc none is found. Of trees in other PID namespaces it is not known who has launched them.
    """
    owned, tags, here = set(), set(), _namespace("self")
    for pid in (name for name in os.listdir("/proc") if name.isdigit()) if process_guard.HAS_PROC else ():
        found = _TAG.search(_read(pid, "environ"))
        if found:
            tags.add(found[1])
            if _namespace(pid) != here or _is_guard(pid) or _is_there(int(found[2]), found[3].decode()):
                owned.add(found[1])
    return sum(process_guard.end_tree(tag.decode(), 0)[0] for tag in tags - owned)


def _is_there(pid: int, start_time: str) -> bool:
    process = process_guard.read_process(pid)
    return process is not None and process.state not in "ZX" and str(process.start_time) == start_time


def _is_guard(pid: str) -> bool:
    return os.path.basename(process_guard.__file__).encode() in _read(pid, "cmdline")


def _namespace(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _read(pid: str, name: str) -> bytes:
    try:
        return Path("/proc", pid, name).read_bytes()
    except OSError:
        return b""  # gone, or another user's
