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

"""A training script that tells where it is and can be held there: `phased_trainer.py FOLDER`.

It adds 1 to each model, and logs the round's number as a scalar. At each phase it writes a line `SITE PHASE ROUND` to
the named pipe FOLDER/signpost, if somebody reads there. If there is a named pipe FOLDER/SITE-PHASE-ROUND it then waits
until somebody writes to that. The phases of a round are receiving, training, sending and sent; before the first there
are launching (ROUND 0), after the last ending (ROUND 0). Receiving and sending are held while arrays are handed over,
so only with models that do not fit into a message; the server pulls the result when sent is reached.
FOLDER/SITE-FAULT-ROUND has the script fail: by an `exception`, an `exit`.
"""

import os
import sys
import threading
from pathlib import Path

from model_checksum import RECEIVED, SENT, checksum

import nvflare.client as flare
from nvflare.app_common.executors.client_api.arrays.exchange import Exchange
from nvflare.app_common.executors.client_api.arrays.memory import SharedMemory
from nvflare.client.tracking import SummaryWriter

FOLDER = Path(sys.argv[1])
SITE = os.environ.get("NVFLARE_TEST_PARTICIPANT", "")


def fail():
    raise RuntimeError("out of data")


FAULTS = {"exception": fail, "exit": lambda: sys.exit(3)}


class Phases:
    def __init__(self):
        self._lock = threading.Lock()
        self._reached = set()
        self.round = 0

    def reach(self, phase: str) -> None:
        """Tells that a phase is reached, and waits while it is held. Counts once per round."""
        name = f"{SITE}-{phase}-{self.round}"
        with self._lock:
            if name in self._reached:
                return
            self._reached.add(name)
        self._tell(f"{SITE} {phase} {self.round}\n")
        try:
            (FOLDER / name).read_text()
        except FileNotFoundError:
            pass  # nobody holds this phase

    @staticmethod
    def _tell(line: str) -> None:
        try:
            signpost = os.open(FOLDER / "signpost", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return  # nobody reads
        try:
            os.write(signpost, line.encode())
        finally:
            os.close(signpost)

    def meet_fate(self) -> None:
        for fault, fail_by in FAULTS.items():
            if (FOLDER / f"{SITE}-{fault}-{self.round}").exists():
                fail_by()


phases = Phases()


def hold_up(transfer: type, step: str, phase: str) -> None:
    """Has a step in the transfer of arrays reach a phase."""
    original = getattr(transfer, step)

    def held_up(*args):
        phases.reach(phase)
        return original(*args)

    setattr(transfer, step, held_up)


def main():
    phases.reach("launching")
    hold_up(Exchange, "unpack", "receiving")
    hold_up(SharedMemory, "seal", "sending")
    flare.init()
    writer = SummaryWriter()
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        phases.round = model.current_round
        phases.reach("training")
        phases.meet_fate()
        params = {name: array + 1 for name, array in model.params.items()}
        writer.add_scalar("round", float(model.current_round), model.current_round)
        meta = {RECEIVED: checksum(model.params), SENT: checksum(params)}
        flare.send(flare.FLModel(params=params, metrics={"round": model.current_round}, meta=meta))
        phases.reach("sent")
        phases.round = model.current_round + 1
    phases.round = 0
    phases.reach("ending")


if __name__ == "__main__":
    main()
