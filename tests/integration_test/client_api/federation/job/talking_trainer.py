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

"""A training script that says what must stay at its site in every way that there is: `talking_trainer.py END`.

END is how it ends: by an `exception`, an `exit`, an exception in a `thread` that uses flare, or by what it has `sent`.
"""

import logging
import sys
import threading
import traceback
import warnings

import chatter

import nvflare.client as flare

# In pieces, for the server has the source of the job.
WORDS = "-".join(["patient", "17"])


class Secret:
    def __repr__(self):
        return WORDS

    def __reduce__(self):
        raise TypeError(WORDS)


def receive_and_fail():
    flare.receive()
    raise RuntimeError(WORDS)


def in_thread(work, *args):
    thread = threading.Thread(target=work, args=args)
    thread.start()
    thread.join()


def talk():
    for prefix in ("", "ERROR:root:", "[ERROR] ", "CRITICAL:nvflare.client:", "2026-01-01 00:00:00,000 - x - ERROR - "):
        print(prefix + WORDS, flush=True)
        print(prefix + WORDS, file=sys.stderr, flush=True)
    for name in (None, "mine", "nvflare.client"):
        logging.getLogger(name).critical(WORDS)
    warnings.warn(WORDS)
    try:
        raise ValueError(WORDS)
    except ValueError:
        logging.getLogger("mine").exception("failed")
        traceback.print_exc()
    # The frames of these threads are not the script's.
    in_thread(chatter.log, WORDS)
    in_thread(chatter.fail, WORDS)


def main(end: str):
    flare.init()
    talk()
    if end == "thread":
        in_thread(receive_and_fail)
        return
    flare.receive()
    if end == "exit":
        sys.exit(WORDS)
    if end == "sent":
        flare.send(flare.FLModel(params={"w": Secret()}, metrics={"m": Secret()}))
    raise RuntimeError(WORDS)


if __name__ == "__main__":
    main(sys.argv[1])
