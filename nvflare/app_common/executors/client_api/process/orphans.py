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
import signal
import uuid
from pathlib import Path

from nvflare.app_common.executors.client_api.job_owner import Owner
from nvflare.app_common.executors.client_api.process.process_table import (
    TAG_NAME,
    Process,
    end_tree,
    list_processes,
    read_file,
    send_signal,
)

# The script that is the guard of a tree.
GUARD = Path(__file__).with_name("process_guard.py")
_TAG = re.compile(rf"(?:^|\0){TAG_NAME}=([0-9a-f]+_([^\0]+))\0")


def new_tag() -> str:
    """Returns a tag for a tree that this process launches."""
    return f"{uuid.uuid4().hex}_{Owner.here()}"


def end_orphans() -> int:
    """Kills the trees of this user whose launcher and guard are gone; returns how many processes that were.

    A guard that was stopped (SIGSTOP) when its launcher died is woken: it ends its tree itself. Where there is no /proc
    none is found. Of launchers in other PID namespaces it is not known whether they are gone.
    """
    owned, tags = set(), set()
    for process in list_processes():
        if found := _TAG.search(_text(process, "environ")):
            tag, is_owned = found[1], not _is_gone(found[2])
            if not is_owned and GUARD.name in _text(process, "cmdline"):
                is_owned = True
                if (pidfd := send_signal(process, signal.SIGCONT)) is not None:
                    os.close(pidfd)
            tags.add(tag)
            if is_owned:
                owned.add(tag)
    return sum(end_tree(tag, None)[0] for tag in tags - owned)


def _is_gone(launcher: str) -> bool:
    try:
        return Owner.parse(launcher).is_gone
    except ValueError:
        return False  # it is no tag of ours


def _text(process: Process, name: str) -> str:
    return read_file(process, name).decode(errors="replace")
