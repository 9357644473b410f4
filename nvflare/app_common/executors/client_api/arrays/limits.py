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

"""All limits of the arrays of a model on their way. Times are in seconds, sizes in bytes. A job can set one of them,
CHUNK_TIMEOUT, by nvflare's own variable; the others nobody.
"""

# A cell that is to be connected, and its first request, which may be lost: twice that the next time.
CONNECT_TIMEOUT = 30.0
FIRST_ANSWER_TIMEOUT = 0.5

# Arrays of up to so many bytes in all travel inside their message, and so much of a result's small ones inside it.
INLINE_LIMIT = 1024 * 1024
INSIDE_LIMIT = 16 * 1024 * 1024

# The pull. Without a byte for that time a chunk is asked for again, so often.
CHUNK_TIMEOUT = 600.0
CHUNK_TRIES = 4
# Up to this size the next task with the same arrays is asked for in one message, and answered in that time.
SHORT_PULL = 256 * 1024
SHORT_PULL_TIMEOUT = 5.0
# A section of a message from this size on may be one array.
LARGE_SECTION = 1024 * 1024
# Memory for a message whose size is not known before: as much again at a time, within these bounds.
LEAST_GROWTH, MOST_GROWTH = 128 * 1024, 16 * 1024 * 1024

# Memory that is left to everybody else, and that is taken without a look at what is left.
RESERVE = 64 << 20
LITTLE = 1 << 20
# Where it cannot be shared: pieces, and how many of them are on their way at a time.
PIECE_SIZE = 1024 * 1024
PIECES_ON_THEIR_WAY = 4

# Serving. Of arrays in one chunk, unless a single one is larger, as nvflare has it.
CHUNK_SIZE = 2 * 1024 * 1024
# Without a request for that time nobody will ask any more.
SERVE_TIMEOUT = 3600.0

# Between two lines that tell how far a long transfer is.
PROGRESS_INTERVAL = 10.0
