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

"""All limits of a session, its channels and its files. None can be set by a job: what a job can set is in the arguments
of ClientAPIExecutor, and reaches a session as such. Times are in seconds.
"""

# Joining. A trainer must be connected and answered in that time: a relay and a loaded host included.
HANDSHAKE_TIMEOUT = 30.0
# So much may be said before a proof: bytes in all, characters in each text.
MAX_BYTES = 4096
MAX_TEXT = 256
# So many strangers are logged one by one, and from then on one line tells of all in so many seconds: they may be many.
STRANGERS_LOGGED = 5
STRANGERS_INTERVAL = 10.0

# Messages over a cell. One that is not answered in that time is sent again: nvflare tells nobody that it lost one.
ACK_TIMEOUT = 1.0
# The same for a piece of a large message, of which several are on their way on what may be a slow link.
PIECE_ACK_TIMEOUT = 20.0
# A large message takes longer: so many bytes a second. Each time that it was in vain the time is doubled, up to the
# longest one and what the bytes take on the slowest link: a copy that comes too early makes a slow link slower.
USUAL_LINK = 10_000_000
LONGEST_ACK_TIMEOUT = 10.0
SLOWEST_LINK = 50_000
# Before a message goes again to a peer that could not be reached: the network tells nobody when it is back.
RETRY_PAUSE = 0.2

# Messages over a job's own pipe, which cannot be woken: after that time it is asked again, and the reader looks whether
# a heartbeat is due. Between two looks into the folder of a FilePipe, as it has them itself.
READ_SLICE = 0.25
FILE_INTERVAL = 0.1

# The end. The trainer gets that time to take note of it, as the job gets of a trainer that leaves.
END_TIMEOUT = 1.5
GOODBYE_TIMEOUT = 1.0
# In which what is in line for a job's own pipe is sent at the end: the peer may read no more.
DRAIN_TIMEOUT = 0.5
# A pipe that was slow before gets so much more of each of them, at most.
LONGEST_PATIENCE = 10.0
# In which a thread that was told to end must have done so; it is left alone then.
CLOSE_TIMEOUT = 1.0

# Log records in one message.
RECORDS_BATCH = 500
# Before records are sent again that the job has no room for.
ROOM_PAUSE = 0.5

# Messages may overtake each other, and be sent again, among so many.
WINDOW = 1 << 16
# So many refusals are kept for copies of what was refused, which must get the same answer. A trainer sends a few
# messages at a time, and what is refused comes again as a new one.
REFUSALS = 1000
# Threads that take in what arrives in a trainer; nvflare has up to 100.
FRAME_THREADS = 3

# More is in no file of ours (bytes).
MAX_FILE_BYTES = 1 << 20
# Folders between a workspace, or one with several, and a job's folder.
MAX_DEPTH = 5
