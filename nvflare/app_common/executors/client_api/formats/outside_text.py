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

"""Text that comes from outside, a script's output or what another process says of itself, and what of it may travel."""

import re

from nvflare.security.logging import SECURE_LOGGING_VAR_NAME, is_secure

# Of the cause of a failure, which travels as a header and as an event.
MAX_CAUSE_BYTES = 4096

# Of a terminal: colours, moves of the cursor, titles.
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")
# What a viewer takes for the end of a line, hides, or turns the text round by.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def readable(text: str) -> str:
    """Returns a text as a log may have it: no line of it can pass for another one.

    Sequences for terminals go, other control characters become escapes. Tabs stay, and so do line feeds: who logs more
    than a line indents what follows.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], _SEQUENCE.sub("", text))


def told_by_script(text: str) -> str:
    """Returns what a script says, its output or an exception in it, as far as that may leave the site.

    A cause does: it goes to the server in replies and events, and with the site's error log.
    """
    return f"(kept at the site: {SECURE_LOGGING_VAR_NAME})" if text and is_secure() else text


def clip_cause(text: str) -> str:
    """Cuts a cause to MAX_CAUSE_BYTES of UTF-8, keeping its first line and as much of its end as fits.

    It becomes readable (see there), and no further line of it begins where a log's own lines do.
    """
    text = readable(text)
    if any(line[:1].strip() for line in text.split("\n")[1:]):
        text = text.replace("\n", "\n  ")
    data = text.encode()
    if len(data) > MAX_CAUSE_BYTES:
        head = data.partition(b"\n")[0][: MAX_CAUSE_BYTES // 2] + b"\n[...]\n"
        data = head + data[len(head) - MAX_CAUSE_BYTES :]
    return data.decode(errors="ignore")
