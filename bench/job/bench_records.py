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

"""Time records of one process, one JSON object a line, in `<directory>/<role>-<pid>.jsonl`.

All times are `time.monotonic()`, which the processes of one Linux machine share.
"""

import json
import os
import time


class Recorder:
    """Writes each record at once, so that what a killed process has seen is kept."""

    def __init__(self, directory: str, role: str):
        self._path = os.path.join(directory, f"{role}-{os.getpid()}.jsonl")

    def write(self, event: str, **fields):
        fields.setdefault("time", time.monotonic())
        with open(self._path, "a") as f:
            f.write(json.dumps({"event": event, **fields}) + "\n")


def load_plan(path: str) -> dict:
    with open(path) as f:
        return json.load(f)


def spread(index: int, irrational: float) -> float:
    """Returns the index-th of numbers that cover [0, 1) evenly, however few of them are used."""
    return index * irrational % 1.0
