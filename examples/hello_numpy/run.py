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

"""A federated job with ClientAPIExecutor, from nothing to a table: `.venv/bin/python examples/hello_numpy/run.py`.

Builds the job with nvflare's FedJob, runs it in nvflare's simulator, shows its progress, and tells per round how far
the model has come, how long the sites trained and what the executor added to that.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

from round_recorder import FILE_NAME, RoundRecorder

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob

HERE = Path(__file__).resolve().parent
JOB_NAME = "hello_numpy"

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
WORTH_SHOWING = re.compile(r" - INFO - (site-\d+: round .*)| - (ERROR - .*)")


def build_job(clients: int, rounds: int) -> FedJob:
    job = FedJob(name=JOB_NAME, min_clients=clients)
    persistor_id = job.to_server(NPModelPersistor(model=[0.0, 0.0, 0.0, 0.0]), id="persistor")
    job.to_server(FedAvg(num_clients=clients, num_rounds=rounds, persistor_id=persistor_id))
    job.to_clients(ClientAPIExecutor(execution_mode="in_process", task_script_path="train.py"), tasks=["train"])
    job.to_clients(ConvertToFedEvent(["analytix_log_stats"]), id="event_to_fed")  # what train.py logs, to the server
    job.to_clients(RoundRecorder(), id="round_recorder")
    job.add_file_to_clients(str(HERE / "train.py"))
    return job


def run_simulator(job_dir: Path, run_dir: Path, log_file: Path, clients: int) -> int:
    """Runs the job and shows what its log tells of progress and errors; returns the simulator's exit code."""
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(job_dir)]
    command += ["-w", str(run_dir), "-n", str(clients), "-t", str(clients)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as simulator:
        with open(log_file, "w") as log:
            for line in simulator.stdout:
                line = COLOUR.sub("", line)
                log.write(line)
                found = WORTH_SHOWING.search(line)
                if found:
                    print(" ", found[1] or found[2], flush=True)
    return simulator.returncode


def read_rounds(run_dir: Path) -> dict:
    """Returns what the sites recorded, by round."""
    rounds = {}
    for file in run_dir.glob(f"*/simulate_job/{FILE_NAME}"):
        for record in map(json.loads, file.read_text().splitlines()):
            rounds.setdefault(record["round"], []).append(record)
    return dict(sorted(rounds.items()))


def print_table(rounds: dict) -> None:
    print(f"\n{'round':>5} {'loss':>10} {'training (s)':>13} {'executor overhead (ms)':>23}   (means of the sites)")
    for number, records in rounds.items():
        loss, training, overhead = (
            mean(record[key] for record in records) for key in ("loss", "train_seconds", "overhead_seconds")
        )
        print(f"{number:>5} {loss:>10.4f} {training:>13.3f} {overhead * 1000:>23.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workspace", type=Path, default=Path(".demo"), help="deleted first if it exists")
    args = parser.parse_args()

    workspace = args.workspace.resolve()
    run_dir, log_file = workspace / "run", workspace / "simulator.log"
    if " " in f"{sys.executable}{workspace}":
        sys.exit(f"nvflare's simulator cannot work with a space in a path: {sys.executable}, {workspace}")
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)

    print(f"{args.clients} sites train {args.rounds} rounds in nvflare's simulator (about half a minute) ...")
    build_job(args.clients, args.rounds).export_job(str(workspace))
    exit_code = run_simulator(workspace / JOB_NAME, run_dir, log_file, args.clients)
    rounds = read_rounds(run_dir)
    if exit_code or sum(map(len, rounds.values())) < args.clients * args.rounds:
        sys.exit(f"\nthe job failed (exit code {exit_code}), see {log_file}")

    print_table(rounds)
    losses = [mean(record["loss"] for record in records) for records in rounds.values()]
    print(f"\nloss:    {losses[0]:.4f} -> {losses[-1]:.4f}")
    print(f"results: {os.path.relpath(run_dir)}\nlog:     {os.path.relpath(log_file)}")
    if len(losses) > 1 and losses[-1] >= losses[0]:
        sys.exit("the loss has not fallen")


if __name__ == "__main__":
    main()
