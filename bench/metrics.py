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

"""From the records of a job to the figures of the report. All times in the result are milliseconds."""

import math
import statistics

IDLE_MARGIN = 2.0


def of_tasks(outcome) -> dict:
    rounds = _rounds(outcome.records)
    steady = rounds[1:] or rounds  # the first task also waits for the launch
    figures = {"tasks measured": len(steady)}
    figures["overhead median"] = _median(_overhead(r) for r in steady)
    figures["overhead mean"] = _mean(_overhead(r) for r in steady)
    figures["overhead p95"] = _p95(_overhead(r) for r in steady)
    figures["delivery median"] = _median(r["received"] - r["before"] for r in steady)
    figures["return median"] = _median(r["after"] - r["send_called"] for r in steady)
    figures["e2e median"] = _median(_end_to_end(r) for r in steady)
    figures["send() median"] = _median(r["send_returned"] - r["send_called"] for r in steady if "send_returned" in r)
    figures["flare.init() median"] = _median(r["seconds"] for r in _events(outcome.records["trainer"], "initialized"))
    figures["launch to first receive"] = 1000 * (rounds[0]["received"] - _run_started(outcome))
    return figures | _of_processes(outcome)


def of_idle(outcome) -> dict:
    step = _events(outcome.records["trainer"], "step")[-1]
    begin, end = step["received"] + IDLE_MARGIN, step["send_called"] - IDLE_MARGIN
    cj, trainer = outcome.records["cj"][0]["pid"], step["pid"]
    figures = {"CJ CPU, % of a core": outcome.watch.cpu_percent(cj, begin, end)}
    if trainer != cj:
        figures["trainer CPU, % of a core"] = outcome.watch.cpu_percent(trainer, begin, end)
    return figures


def of_logging(outcome) -> dict:
    step = _events(outcome.records["trainer"], "step")[-1]
    last_result = _events(outcome.records["server"], "result")[-1]["time"]
    scalars = outcome.records["scalars"]
    steps = [s["step"] for s in scalars]
    return {
        "scalars logged": step["log_count"],
        "at the server by the end of the task": sum(s["time"] <= last_result for s in scalars),
        "at the server by the end of the job": len(scalars),
        "in order": steps == sorted(steps),
        "flare.log() mean": 1000 * step["log_total"] / step["log_count"],
        "flare.log() slowest": 1000 * step["log_slowest"],
    }


def _rounds(records: dict) -> list:
    """One dict a round: times from the server, the client job process and the script together."""
    rounds = [dict(step) for step in _events(records["trainer"], "step")]
    by_number = {r["round"]: r for r in rounds}
    for record in _events(records["trainer"], "send_returned"):
        by_number[record["round"]]["send_returned"] = record["time"]
    for name in ("sent", "result"):
        for record in _events(records["server"], name):
            by_number[record["round"]][name] = record["time"]
    for name in ("before", "after"):
        for round_of_task, record in zip(rounds, _events(records["cj"], name)):
            round_of_task[name] = record["time"]
    return rounds


def _overhead(r: dict) -> float:
    return (r["after"] - r["before"]) - (r["send_called"] - r["received"])


def _end_to_end(r: dict) -> float:
    return (r["result"] - r["sent"]) - (r["send_called"] - r["received"])


def _of_processes(outcome) -> dict:
    cj = outcome.records["cj"][0]["pid"]
    trainers = {r["pid"] for r in outcome.records["trainer"]} - {cj}
    watch = outcome.watch
    figures = {"CJ peak RSS, MB": watch.peak_rss_mb.get(cj), "CJ threads, most": watch.peak_threads.get(cj)}
    if trainers:
        figures["trainer peak RSS, MB"] = max((watch.peak_rss_mb.get(t, 0) for t in trainers))
        figures["trainer threads, most"] = max((watch.peak_threads.get(t, 0) for t in trainers))
    figures["peak PSS of CJ and trainer, MB"] = watch.peak_pss_mb
    figures["processes left"] = outcome.leftovers
    figures["machine load before"] = outcome.load_before
    return figures


def _run_started(outcome) -> float:
    return _events(outcome.records["cj"], "run_started")[0]["time"]


def _events(records: list, name: str) -> list:
    return [record for record in records if record["event"] == name]


def _median(seconds):
    values = list(seconds)
    return 1000 * statistics.median(values) if values else None


def _mean(seconds):
    values = list(seconds)
    return 1000 * statistics.mean(values) if values else None


def _p95(seconds):
    values = sorted(seconds)
    return 1000 * values[math.ceil(0.95 * len(values)) - 1] if values else None
