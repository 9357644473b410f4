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

"""The training script that every peer runs: add one to each array, take a while, send it back."""

import math
import sys
import time
from typing import Optional

from bench_records import Recorder, load_plan, spread

import nvflare.client as flare
from nvflare.apis.analytix import AnalyticsDataType


def training_seconds(plan: dict, round_number: int) -> float:
    """Spread over 0.5 s, the period of the slowest poll, so that no poll comes at the right time in every round."""
    if plan["at_once"]:
        return 0.0
    if round_number == plan.get("idle_round"):
        return plan["idle_seconds"]
    return 0.05 + 0.5 * spread(round_number, math.sqrt(2))


def log_burst(count: int) -> dict:
    """Logs `count` scalars as fast as it can; returns how long the calls took, in seconds."""
    seconds = []
    for step in range(count):
        start = time.monotonic()
        flare.log("loss", 1.0 / (step + 1), AnalyticsDataType.SCALAR, global_step=step)
        seconds.append(time.monotonic() - start)
    return {"log_count": count, "log_total": sum(seconds), "log_slowest": max(seconds)}


def main(plan_path: str, config_file: Optional[str] = None):
    plan = load_plan(plan_path)
    recorder = Recorder(plan["records"], "trainer")
    recorder.write("started")
    begin = time.monotonic()
    flare.init(config_file=config_file)
    recorder.write("initialized", seconds=time.monotonic() - begin)
    while flare.is_running():
        model = flare.receive()
        received = time.monotonic()
        if model is None:
            break
        round_number = model.current_round
        fields = log_burst(scalars) if (scalars := plan["scalars"][round_number]) else {}
        time.sleep(training_seconds(plan, round_number))
        result = flare.FLModel(params={name: array + 1 for name, array in model.params.items()})
        send_called = time.monotonic()
        recorder.write("step", round=round_number, received=received, send_called=send_called, **fields)
        flare.send(result)
        recorder.write("send_returned", round=round_number)


if __name__ == "__main__":
    main(*sys.argv[1:])
