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

"""All limits of log records on their way. None can be set by a job. Times are in seconds."""

# A script that logs faster than its records are taken waits here, instead of filling the memory.
MAX_PENDING_RECORDS = 10_000
# The first record of a burst waits: what comes right behind it, above all the result, is taken before.
BURST_PAUSE = 0.02
# The server must have acknowledged one event; a second attempt carries the same timestamp, so that the server takes the
# event once, however late the first one arrives.
ACK_TIMEOUT = 5.0
SEND_ATTEMPTS = 2
# The result of a task waits for the records that were logged before it, the end of the job for the last ones.
FLUSH_TIMEOUT = 30.0
CLOSE_TIMEOUT = 5.0
