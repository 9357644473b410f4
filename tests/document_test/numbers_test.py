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

"""The limits that the documents tell are those of the code."""

import re

import pytest

from nvflare.app_common.executors.client_api import arguments, attach_backend, waiting
from nvflare.app_common.executors.client_api.arrays import limits as arrays
from nvflare.app_common.executors.client_api.arrays.parcels import ROOM
from nvflare.app_common.executors.client_api.external_process_backend import MAX_FAILURES
from nvflare.app_common.executors.client_api.formats.outside_text import MAX_CAUSE_BYTES
from nvflare.app_common.executors.client_api.formats.sendable import MAX_DEPTH
from nvflare.app_common.executors.client_api.in_process_backend import SCRIPT_END_TIMEOUT as LAST
from nvflare.app_common.executors.client_api.in_process_backend import SCRIPT_STOP_TIMEOUT as BUSY
from nvflare.app_common.executors.client_api.process import limits as process
from nvflare.app_common.executors.client_api.script.script_thread import TRACEBACK_LINES
from nvflare.app_common.executors.client_api.server import limits as records
from nvflare.app_common.executors.client_api.session import limits as session
from tests.unit_test.app_common.executors.job_harness import PROJECT

KB, MB, MILLION = 1024, 1024 * 1024, 1_000_000
WORDS = {"a": 1, "three": 3, "four": 4, "five": 5}
SLOWEST = session.LONGEST_ACK_TIMEOUT + MB // session.SLOWEST_LINK + 1
LAUNCH = process.LAUNCH_LIMIT + arrays.CONNECT_TIMEOUT
# A document, what it says with # in the place of a number, and these numbers.
TOLD = [
    ("README.md", "Times are at most # seconds", arguments.MAX_SECONDS),
    ("README.md", "natural exit at the end; `None`: #", process.SHUTDOWN_TIMEOUT),
    ("README.md", "unset, the script has # seconds to end by itself", process.SHUTDOWN_TIMEOUT),
    ("README.md", "split at # KB, and what exceeds # KB a second", process.MAX_LINE_BYTES / KB, process.LOG_RATE / KB),
    ("README.md", "for a workflow that wants it (at most # KB)", MAX_CAUSE_BYTES / KB),
    ("README.md", "still works on a task is left alone after # s", BUSY),
    ("README.md", "(it may save its model) after # s", LAST),
    ("README.md", "a task that has lost # fails", attach_backend.MAX_LOSSES),
    ("README.md", "| # tasks in a row fail in external_process", MAX_FAILURES),
    ("contract.md", "ends first: in # s, # s with 1 MiB, # s", session.LONGEST_ACK_TIMEOUT, SLOWEST, LAUNCH),
    ("contract.md", "`client_api_failure_cause`, cut to # KB", MAX_CAUSE_BYTES / KB),
    ("contract.md", "so an abort is looked for every # s", waiting.ABORT_CHECK_INTERVAL),
    ("contract.md", "The first records of a burst wait # ms", records.BURST_PAUSE * 1000),
    ("contract.md", "not acknowledged in # s is sent once more", records.ACK_TIMEOUT),
    ("contract.md", "A full queue (#)", records.MAX_PENDING_RECORDS),
    (
        "contract.md",
        "waits at most # s for its records, the end of the job # s",
        records.FLUSH_TIMEOUT,
        records.CLOSE_TIMEOUT,
    ),
    ("contract.md", "`client_api_pieces` | a message in pieces | sends # at a time", arrays.PIECES_ON_THEIR_WAY),
    ("contract.md", "is read in slices of # s", session.READ_SLICE),
    ("contract.md", "* # losses with one task", attach_backend.MAX_LOSSES),
    ("contract.md", "left alone after # s in a task, # s after its last", BUSY, LAST),
    ("scripts.md", "the last # lines of the traceback", TRACEBACK_LINES),
    ("scripts.md", "at most # s for a script in a task, # s for one", BUSY, LAST),
    ("processes.md", "; # failures in a row end the job", MAX_FAILURES),
    (
        "sessions.md",
        "within # second, and what its bytes take at # MB/s",
        session.ACK_TIMEOUT,
        session.USUAL_LINK / MILLION,
    ),
    ("sessions.md", "mode 0600, at most # MiB", session.MAX_FILE_BYTES / MB),
    ("sessions.md", "# HELLOs without a good proof", attach_backend.MAX_BAD_HELLOS),
    ("sessions.md", "new keys, at most every # s", attach_backend.BAD_PROOFS_INTERVAL),
    ("sessions.md", "at most # KiB of flat JSON", session.MAX_BYTES / KB),
    ("arrays.md", "with # free bytes on both sides", ROOM),
    ("arrays.md", "Arrays of up to # MiB in all travel inside", arrays.INLINE_LIMIT / MB),
    ("arrays.md", "travels inside its result, up to # MiB in all", arrays.INSIDE_LIMIT / MB),
    ("arrays.md", "If there is none in # s, the stream follows", arrays.SHORT_PULL_TIMEOUT),
    ("arrays.md", "in pieces of # MiB, # on their way", arrays.PIECE_SIZE / MB, arrays.PIECES_ON_THEIR_WAY),
    ("arrays.md", "A chunk is waited for # s", arrays.CHUNK_TIMEOUT),
    ("arrays.md", "asked for again # times", arrays.CHUNK_TRIES - 1),
    ("arrays.md", "A piece is sent again after # s, and then every # s", session.PIECE_ACK_TIMEOUT, SLOWEST),
    ("arrays.md", "at most # levels", MAX_DEPTH),
]


@pytest.mark.parametrize("name, told, numbers", [(name, told, numbers) for name, told, *numbers in TOLD])
def test_limit_is_the_one_of_the_code(name, told, numbers):
    document = PROJECT / name if name == "README.md" else PROJECT / "docs" / "design" / name
    pattern = re.escape(told).replace(r"\ ", r"\s+").replace(r"\#", r"([\d,.]*\d|\w+)")
    shown = re.findall(pattern, document.read_text(), re.IGNORECASE)
    assert len(shown) == 1
    found = shown[0] if isinstance(shown[0], tuple) else shown
    assert [WORDS.get(word.lower()) or float(word.replace(",", "")) for word in found] == numbers
