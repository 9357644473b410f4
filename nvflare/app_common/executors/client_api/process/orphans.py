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

from nvflare.app_common.executors.client_api.job_owner import Owner
from nvflare.app_common.executors.client_api.process import process_guard

_TAG = re.compile(rf"(?:^|\0){process_guard.TAG_NAME}=([0-9a-f]+_([^\0]+))\0")


def new_tag() -> str:
    """Returns a tag for a tree that this process launches."""
    return f"{uuid.uuid4().hex}_{Owner.here()}"


def end_orphans() -> int:
    """Kills the trees of this user whose launcher and guard are gone; returns how many processes that were.

    Where there is no /proc none is found. Of launchers in other PID namespaces it is not known whether they are gone.
    """
    owned, tags = set(), set()
    for pid in (name for name in os.listdir("/proc") if name.isdigit()) if process_guard.HAS_PROC else ():
        if found := _TAG.search(_read(pid, "environ")):
            tags.add(found[1])
            if _is_guard(pid) or not _is_gone(found[2]):
                owned.add(found[1])
    return sum(process_guard.end_tree(tag, 0)[0] for tag in tags - owned)


def _is_gone(launcher: str) -> bool:
    try:
        return Owner.parse(launcher).is_gone
    except ValueError:
        return False  # it is no tag of ours


def _is_guard(pid: str) -> bool:
    return os.path.basename(process_guard.__file__) in _read(pid, "cmdline")


def _read(pid: str, name: str) -> str:
    try:
        return Path("/proc", pid, name).read_text(errors="replace")
    except OSError:
        return ""  # gone, or another user's
