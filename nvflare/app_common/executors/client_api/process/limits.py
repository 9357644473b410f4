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

"""All limits of a trainer process and its output, but those of the guard itself, which stand in files of its own.

Times are in seconds. A job can set the first two, by arguments of its executor, and no other one.
"""

from nvflare.app_common.executors.client_api.process.process_table import KILL_LIMIT

# For an exit by itself after the end of the session, and from SIGTERM to SIGKILL: what is not set.
SHUTDOWN_TIMEOUT = 30.0
STOP_GRACE_PERIOD = 30.0
# From the start of the guard to that of the command: tens of ms, or a thrashing machine.
LAUNCH_LIMIT = 60.0
# After the grace period, before a guard counts as deaf.
GUARD_LIMIT = 2 * KILL_LIMIT
# CPU seconds that a tree must have used in a heartbeat timeout to count as alive.
MIN_CPU_SECONDS = 0.02

# Output is read in pieces as large as a pipe, and at an exit so many of them: a descendant may flood for ever.
READ_BYTES, DRAIN_READS = 65536, 16
# Of output that is logged: a line, the rate per second, what may come at once, what a line costs beside its text.
MAX_LINE_BYTES = 8192
LOG_RATE = 128 * 1024
LOG_BURST = 4 * LOG_RATE
LINE_COST = 100
# nvflare's formatters look from each bracket through the rest of its line: so many bytes of that cost one of text.
BRACKET_COST = 32
# Of output that is kept for the cause of a failure, which has 4 KB in all.
TAIL_LINES, TAIL_BYTES = 50, 3072

# Between two looks at a job's own launcher whose trainer has not joined yet.
LAUNCHER_CHECK_INTERVAL = 1.0
# That a job's own launcher may take at the end of the job.
LAUNCHER_STOP_TIMEOUT = 30.0
