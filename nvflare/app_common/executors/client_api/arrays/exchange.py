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

"""One end of an exchange of messages with arrays between two processes, which need not be on one host.

The arrays of a small message travel inside it; those of a large one are handed over in memory that both ends share. An
end that cannot open the other's memory (another host, container, or system) says so once, and from then on the arrays
are sent in pieces, each acknowledged by itself, before the message that they belong to.
"""

import itertools
import mmap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

from nvflare.app_common.executors.client_api.arrays import limits
from nvflare.app_common.executors.client_api.arrays.memory import CAN_SHARE, NotOnThisHost, PrivateMemory, SharedMemory
from nvflare.app_common.executors.client_api.arrays.parcels import Parcel, Placed, write_arrays
from nvflare.app_common.executors.client_api.arrays.progress import Progress
from nvflare.app_common.executors.client_api.arrays.specs import ArrayRefused
from nvflare.fuel.utils.log_utils import get_obj_logger

# Keys of what is sent in the place of a message.
_PARCEL, _INSIDE, _SHARED, _PIECES = "client_api.parcel", "inside", "shared", "pieces"


class Packed:
    """What is sent for a message, and the memory that has to be there until it has arrived."""

    def __init__(self, payload: Any, placed: Optional[Placed] = None):
        self.payload = payload
        self.placed = placed

    @property
    def is_in_pieces(self) -> bool:
        """Whether its arrays have to be sent in pieces before."""
        return self.placed is not None and _PIECES in self.payload


class Exchange:
    def __init__(self, makes_tensors: bool = True, can_share: bool = CAN_SHARE):
        """Initializes one end; writing to an array that it has received changes nobody else's.

        Args:
            makes_tensors: False: tensors are received as CarriedTensors.
            can_share: whether memory can be handed over, as far as is known.
        """
        self.logger = get_obj_logger(self)
        self.makes_tensors = makes_tensors
        self._can_share = can_share
        self._lock = threading.Lock()  # guards what comes in pieces
        self._arriving = (0, None)  # number of the transfer, and memory
        self._transfers = itertools.count(1)

    @property
    def way(self) -> str:
        """How large arrays are handed over."""
        return "shared memory" if self._can_share else "pieces"

    # What is sent

    @contextmanager
    def pack(self, message: Any) -> Iterator[Packed]:
        """Gives what to send for a message, and keeps its arrays in memory until the context is left.

        Args:
            message: has `data`, the message or a Placed one. Of the arrays in it this lets go, one by one.

        Raises:
            ArrayRefused: an array cannot be handed over.
        """
        if isinstance(message.data, Placed):
            yield self._packed(message.data)  # whoever has placed it may have it sent again
            return
        placed = self._place(message)
        if placed is None:
            yield Packed(message.data)
            return
        try:
            yield self._packed(placed)
        finally:
            placed.memory.close()

    def _place(self, message: Any) -> Optional[Placed]:
        parcel, arrays = Parcel.take_apart(message.data)
        if not arrays:
            return None
        message.data = parcel.content
        is_shared = parcel.size > limits.INLINE_LIMIT and self._can_share
        memory = SharedMemory(parcel.size) if is_shared else PrivateMemory(parcel.size)
        write_arrays(arrays, parcel, memory)
        if is_shared:
            memory.seal(parcel.size)
        return Placed(parcel, memory)

    def _packed(self, placed: Placed) -> Packed:
        payload = {_PARCEL: placed.parcel.describe()}
        if placed.parcel.size <= limits.INLINE_LIMIT:
            payload[_INSIDE] = placed.memory.map(is_private=False)[: placed.parcel.size]
        elif self._can_share and isinstance(placed.memory, SharedMemory):
            payload[_SHARED] = placed.memory.address()
        else:
            payload[_PIECES] = next(self._transfers)
        return Packed(payload, placed)

    def stop_sharing(self, packed: Packed, why: str) -> Packed:
        """Notes that the other end cannot open memory of this one; returns what to send instead, in pieces."""
        if self._can_share:
            self._can_share = False
            self.logger.warning(f"arrays are sent in pieces, for the other end cannot open memory of this one: {why}")
        return self._packed(packed.placed)

    @staticmethod
    def send_pieces(packed: Packed, send: Callable[[dict], bool]) -> bool:
        """Sends the arrays of what was packed, and tells whether all of them have arrived.

        Args:
            packed: the message.
            send: sends one piece, and tells whether it has arrived; called on several threads.
        """
        size, transfer = packed.placed.parcel.size, packed.payload[_PIECES]
        content = memoryview(packed.placed.memory.map(is_private=False))
        progress = Progress("sent", size)
        failed = threading.Event()

        def send_one(offset: int) -> None:
            if failed.is_set():
                return
            piece = bytes(content[offset : min(offset + limits.PIECE_SIZE, size)])
            if send({"transfer": transfer, "size": size, "offset": offset, "content": piece}):
                progress.add(len(piece))
            else:
                failed.set()

        # The first alone: the other end makes room for all.
        send_one(0)
        with ThreadPoolExecutor(limits.PIECES_ON_THEIR_WAY, "client_api_pieces") as pool:
            for _ in pool.map(send_one, range(limits.PIECE_SIZE, size, limits.PIECE_SIZE)):
                pass  # what one of them raises is raised here
        return not failed.is_set()

    # What is received

    def take_piece(self, piece: dict) -> None:
        """Takes a piece; one that was sent again is the same, one of a transfer that was given up is too late.

        Raises:
            ArrayRefused: it is malformed, or there is not enough memory.
        """
        transfer, size, offset, content = (piece[name] for name in ("transfer", "size", "offset", "content"))
        if any(type(number) is not int for number in (transfer, size, offset)) or type(content) is not bytes:
            raise ArrayRefused("a piece is malformed")
        if not 0 <= offset <= size - len(content):
            raise ArrayRefused("a piece is outside of its message")
        with self._lock:
            if transfer > self._arriving[0]:
                self._arriving = transfer, PrivateMemory(size)  # what was there is of a message that never came
            is_late, memory = transfer < self._arriving[0], self._arriving[1]
        if is_late or memory is None:
            return
        if size != memory.size:
            raise ArrayRefused("a piece is of a message of another size")
        memory.write(offset, content)

    def unpack(self, payload: Any) -> Any:
        """Returns the message of what was sent for it.

        Raises:
            NotOnThisHost: its arrays are in memory that cannot be opened here.
            ArrayRefused: it is malformed, or there is not enough memory.
        """
        if type(payload) is not dict or _PARCEL not in payload:
            return payload
        parcel = Parcel.read(payload[_PARCEL])
        return parcel.put_together(self._buffer_of(payload, parcel), self.makes_tensors)

    def _buffer_of(self, payload: dict, parcel: Parcel) -> Any:
        if _INSIDE in payload:
            buffer = bytearray(payload[_INSIDE])
        elif _SHARED in payload:
            buffer = self._map(payload[_SHARED])
        else:
            with self._lock:
                (transfer, memory), self._arriving = self._arriving, (self._arriving[0], None)
            if transfer != payload[_PIECES] or memory is None:
                raise ArrayRefused("the pieces of a message are missing")
            buffer = memory.map(is_private=True)
        if len(buffer) < parcel.size:
            raise ArrayRefused("a message is larger than its memory")
        return buffer

    @staticmethod
    def _map(address: dict) -> mmap.mmap:
        if not CAN_SHARE:
            raise NotOnThisHost("this system has no memfd")
        memory = SharedMemory.open(address)
        try:
            memory.reserve_all()
            return memory.map(is_private=True)
        finally:
            memory.close()
