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

"""Makes log lines of a trainer's output: bounded in memory and rate, and of text that cannot pass for another line.

Nothing here reads or logs: bytes and the time go in, lines come out.
"""

from typing import Iterator, List, Optional

from nvflare.app_common.executors.client_api.formats.outside_text import readable
from nvflare.app_common.executors.client_api.process import limits


class OutputLines:
    """Makes log lines of a byte stream, in bounded memory and at a bounded rate. Pure: the clock is passed in."""

    def __init__(self, rate: float = limits.LOG_RATE, burst: float = limits.LOG_BURST):
        self._rate = rate
        self._burst = burst
        self._budget = burst
        self._clock: Optional[float] = None
        self._rest = b""  # of a line whose end has not come
        self._tail = b""
        self._dropped_lines = 0
        self._dropped_bytes = 0

    @property
    def is_dropping(self) -> bool:
        return self._dropped_bytes > 0

    def feed(self, data: bytes, now: float) -> List[str]:
        """Takes output, returns the lines to log now. `now` is in seconds, monotonic."""
        self._tail = (self._tail + data[-limits.TAIL_BYTES :])[-limits.TAIL_BYTES :]
        elapsed = 0.0 if self._clock is None else now - self._clock
        self._budget = min(self._burst, self._budget + elapsed * self._rate)
        self._clock = now
        # Having dropped, stay mute for a second: one notice per second and no single lines in between.
        if self._budget <= 0 or (self.is_dropping and self._budget < min(self._rate, self._burst)):
            self._drop(data)
            return []
        return self._take_notice() + self._split(data)

    def flush(self) -> List[str]:
        """Returns what is left to log when the output has ended."""
        rest, self._rest = self._rest, b""
        return self._take_notice() + _text(rest)

    def tail(self) -> str:
        """Returns the last lines, logged or not, at most limits.TAIL_LINES and limits.TAIL_BYTES."""
        lines = [readable(line) for line in self._tail.decode(errors="replace").splitlines()]
        return "\n".join([line for line in lines if line.strip()][-limits.TAIL_LINES :])

    def _split(self, data: bytes) -> List[str]:
        # A carriage return ends a line too: progress bars know no other end.
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > limits.MAX_LINE_BYTES:
            end = _whole(self._rest)
            lines.append(self._rest[:end])
            self._rest = self._rest[end:]
        logged = []
        for line in lines:
            for piece in _pieces(line):
                if self._budget <= 0:
                    self._count_dropped(1, len(piece))
                    continue
                self._budget -= len(piece) + limits.LINE_COST + len(piece) * piece.count(b"[") // limits.BRACKET_COST
                logged += _text(piece)
        return logged

    def _drop(self, data: bytes) -> None:
        # At 100 MB/s there is time to count, not to split.
        self._count_dropped(data.count(b"\n"), len(data))
        self._rest = data[max(data.rfind(b"\n") + 1, len(data) - limits.MAX_LINE_BYTES) :]

    def _count_dropped(self, lines: int, size: int) -> None:
        self._dropped_lines += lines
        self._dropped_bytes += size

    def _take_notice(self) -> List[str]:
        lines, size = self._dropped_lines, self._dropped_bytes
        self._dropped_lines = self._dropped_bytes = 0
        return [f"... {lines} lines dropped ({size} bytes): more output than the log takes"] if size else []


def _pieces(line: bytes) -> Iterator[bytes]:
    while len(line) > limits.MAX_LINE_BYTES:
        end = _whole(line[: limits.MAX_LINE_BYTES])
        yield line[:end]
        line = line[end:]
    if line:
        yield line


def _whole(data: bytes) -> int:
    """Returns how many bytes there are before a character of UTF-8 that is cut off at the end."""
    for size in range(1, min(4, len(data))):
        first = data[-size]
        if first & 0xC0 != 0x80:  # it begins a character, of so many bytes
            needed = 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)
            return len(data) - size if needed > size else len(data)
    return len(data)


def _text(line: bytes) -> List[str]:
    """Returns the line as text; none if nothing is to be seen, as where a progress bar clears its line."""
    text = readable(line.decode(errors="replace"))
    return [text] if text.strip() else []
