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

"""Measures ClientAPIExecutor and the executors of nvflare 2.8 and 2.9 in the same jobs: see README.md."""

import argparse
import json
import os
import platform
import re
import signal
import sys

import measure
import metrics
import peers

SIZE_UNITS = {"B": 1, "KB": 1024, "MB": 1024**2}
MODES = (peers.IN_PROCESS, peers.EXTERNAL, peers.EXTERNAL_PER_TASK, peers.ATTACH)
MODES_OF_CHOICE = {
    "in_process": (peers.IN_PROCESS,),
    "external": (peers.EXTERNAL, peers.EXTERNAL_PER_TASK),
    "external_once": (peers.EXTERNAL,),
    "external_per_task": (peers.EXTERNAL_PER_TASK,),
    "attach": (peers.ATTACH,),
    "all": MODES,
}
KINDS = ("tasks", "at_once", "tensors", "many", "idle", "log")
IDLE_SECONDS = 20.0
FEW_SCALARS = 10
MANY_ARRAYS = 10_000


def parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+)(B|KB|MB)", text.strip().upper())
    if not match:
        raise argparse.ArgumentTypeError(f"size {text!r} must be like 1KB or 64MB")
    return int(match.group(1)) * SIZE_UNITS[match.group(2)]


def size_name(size: int) -> str:
    unit = next(u for u in ("MB", "KB", "B") if size >= SIZE_UNITS[u])
    return f"{size // SIZE_UNITS[unit]}{unit}"


def default_rounds(size: int) -> int:
    if size >= 256 * SIZE_UNITS["MB"]:
        return 4
    return 8 if size >= SIZE_UNITS["MB"] else 20


def scenarios(options) -> list:
    """Returns (title, fields of the Spec, function that makes the figures) of each scenario."""
    found = []
    for mode in MODES_OF_CHOICE[options.what]:
        for title, fields in task_scenarios(options, mode):
            rounds = options.rounds or default_rounds(fields["size"])
            found.append((f"{mode}, {title}", {"mode": mode, "rounds": rounds, **fields}, metrics.of_tasks))
        if mode == peers.EXTERNAL_PER_TASK:
            continue
        if "idle" in options.kinds:
            fields = {"mode": mode, "rounds": 2, "idle_seconds": IDLE_SECONDS}
            found.append((f"{mode}, idle in a {IDLE_SECONDS:.0f} s step", fields, metrics.of_idle))
        for count in options.scalars if "log" in options.kinds else ():
            fields = {"mode": mode, "rounds": 2, "scalars": count}
            found.append((f"{mode}, {count} scalars in the last task", fields, metrics.of_logging))
    return found


def task_scenarios(options, mode: str):
    """Yields the title and what is special about it in the Spec of each scenario whose tasks are timed."""
    kinds = options.kinds
    for size in options.size if "tasks" in kinds else ():
        yield size_name(size), {"size": size}
    if mode == peers.EXTERNAL_PER_TASK:
        kinds = [kind for kind in kinds if kind == "tensors"]
    smallest, largest = min(options.size), max(options.size)
    if "at_once" in kinds:
        yield f"{size_name(smallest)}, answered at once", {"size": smallest, "at_once": True}
        fields = {"size": smallest, "at_once": True, "scalars_each": FEW_SCALARS}
        yield f"{size_name(smallest)}, answered at once after {FEW_SCALARS} scalars", fields
    for dtype in ("float32", "bfloat16") if "tensors" in kinds else ():
        yield f"{size_name(largest)} of {dtype} tensors", {"size": largest, "tensors": dtype}
    if "many" in kinds:
        fields = {"size": MANY_ARRAYS * SIZE_UNITS["KB"], "arrays": MANY_ARRAYS}
        yield f"{MANY_ARRAYS:,} arrays of 1KB", fields


def measure_one(fields: dict, peer: str, python: str, make_figures, keep: bool) -> dict:
    """Returns the figures, or {"failed": why}."""
    try:
        return make_figures(measure.run(measure.Spec(peer=peer, **fields), python, keep))
    except (measure.MeasurementFailed, peers.Unsupported) as e:
        return {"failed": str(e)}
    except (KeyError, IndexError) as e:
        return {"failed": f"incomplete records: {e!r}"}


def print_table(title: str, results: dict):
    columns = list(results)
    others = [p for p in columns if p != "ours"] if "ours" in columns else []
    rows = [[title, *columns, *(f"ours/{p}" for p in others)]]
    names = dict.fromkeys(name for figures in results.values() for name in figures if name != "failed")
    for name in names:
        values = [results[p].get(name, "FAILED" if "failed" in results[p] else None) for p in columns]
        ratios = [ratio(results["ours"].get(name), results[p].get(name)) for p in others]
        rows.append([name, *map(cell, values), *ratios])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths))))
    for peer, figures in results.items():
        if "failed" in figures:
            print(f"{peer} FAILED: {figures['failed']}")
    print(flush=True)


def cell(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


def ratio(ours, other) -> str:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (ours, other))
    return f"{ours / other:.3f}" if numbers and other else "-"


def parse_options(arguments: list):
    def words(text: str) -> list:
        return [word.strip() for word in text.split(",") if word.strip()]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=list(MODES_OF_CHOICE), default="all")
    parser.add_argument("--rounds", type=int, help="tasks per job; default: 20, or 8 from 1MB and 4 from 256MB")
    parser.add_argument("--size", default="1KB,64MB,512MB", type=lambda text: [parse_size(w) for w in words(text)])
    parser.add_argument("--peers", default=",".join((*peers.PEERS, peers.FLOOR)), type=words)
    parser.add_argument("--kinds", default=",".join(KINDS), type=words, help="which kinds of jobs to run")
    parser.add_argument("--scalars", default="500", type=lambda text: [int(w) for w in words(text)])
    parser.add_argument("--venv", action="append", default=[], metavar="PEER=PATH", help="use this environment")
    parser.add_argument("--out", default=os.path.join(peers.BENCH_HOME, "results.json"))
    parser.add_argument("--keep", action="store_true", help="keep the folders of successful jobs")
    options = parser.parse_args(arguments)
    for name, given, known in (
        ("peers", options.peers, (*peers.PEERS, peers.FLOOR)),
        ("kinds", options.kinds, KINDS),
    ):
        if unknown := set(given) - set(known):
            parser.error(f"unknown {name} {sorted(unknown)}, there are {', '.join(known)}")
    options.venv = dict(item.split("=", 1) for item in options.venv)
    return options


def main(arguments: list) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the job under way is cleaned up
    options = parse_options(arguments)
    tensors = "tensors" in options.kinds
    pythons = {peer: peers.prepare_venv(peer, options.venv, tensors) for peer in options.peers}
    report = {"machine": {"cpus": os.cpu_count(), "platform": platform.platform()}, "scenarios": []}
    for title, fields, make_figures in scenarios(options):
        in_this = [p for p in options.peers if p != peers.FLOOR or make_figures is metrics.of_tasks]
        results = {}
        for peer in in_this:
            print(f"measuring {title}: {peer}", file=sys.stderr, flush=True)
            results[peer] = measure_one(fields, peer, pythons[peer], make_figures, options.keep)
        print_table(title, results)
        report["scenarios"].append({"title": title, "spec": fields, "results": results})
        os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
        with open(options.out, "w") as f:
            json.dump(report, f, indent=2)
    failed = any("failed" in figures for s in report["scenarios"] for figures in s["results"].values())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
