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

"""No duration is measured by the wall clock, which may be set while a job runs."""

import ast
from pathlib import Path

from nvflare.app_common.executors import client_api_executor

# What reads the wall clock: names of the modules time and datetime.
WALL_CLOCK = {"time", "time_ns", "localtime", "gmtime", "now", "utcnow", "today"}
# The server takes only events of a site whose timestamps grow.
TIMESTAMPS = {"client_api/server/analytics.py": 1}


def wall_clock_reads(source: str) -> int:
    found = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found += node.module in ("time", "datetime")  # a name that could not be told from another one
        elif isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            found += owner in ("time", "datetime", "date") and node.attr in WALL_CLOCK
    return found


def test_finds_what_it_looks_for():
    reads = ["time.time()", "datetime.datetime.now()", "from time import time", "self.clock = time.time"]
    assert [wall_clock_reads(line) for line in reads] == [1, 1, 1, 1]
    assert wall_clock_reads("time.monotonic() + self.time.total") == 0


def test_only_timestamps_read_the_wall_clock():
    root = Path(client_api_executor.__file__).parent
    ours = [Path(client_api_executor.__file__), *root.joinpath("client_api").rglob("*.py")]
    reads = {path.relative_to(root).as_posix(): wall_clock_reads(path.read_text()) for path in ours}
    assert len(reads) > 20
    assert {name: count for name, count in reads.items() if count} == TIMESTAMPS
