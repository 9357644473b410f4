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

"""A federated job with ClientAPIExecutor, from nothing to a table: `python examples/hello_numpy/run.py`.

Builds the job with nvflare's FedJob, runs it in nvflare's simulator, shows its progress, and tells per round how far
the model has come, how long the sites trained and what the executor added to that.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from round_recorder import RoundRecorder  # noqa: E402

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor  # noqa: E402
from nvflare.app_common.workflows.fedavg import FedAvg  # noqa: E402
from nvflare.job_config.api import FedJob  # noqa: E402

JOB_NAME = "hello_numpy"


def build_job(clients: int, rounds: int) -> FedJob:
    job = FedJob(name=JOB_NAME, min_clients=clients)
    initial_model = {"weights": [0.0, 0.0, 0.0, 0.0]}
    job.to_server(FedAvg(num_clients=clients, num_rounds=rounds, model=initial_model, save_filename="model.npy"))
    job.to_clients(ClientAPIExecutor(execution_mode="in_process", task_script_path="train.py"), tasks=["train"])
    job.to_clients(RoundRecorder(), id="round_recorder")
    job.add_file_to_clients(str(HERE / "train.py"))
    return job


def run_simulator(job: FedJob, workspace: Path, clients: int) -> None:
    job.export_job(str(workspace / "jobs"))
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(workspace / "jobs" / JOB_NAME)]
    command += ["-w", str(workspace / "run"), "-n", str(clients), "-t", str(clients)]
    log_file = workspace / "simulator.log"
    with open(log_file, "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in process.stdout:
            log.write(line)
            progress = re.search(r"identity=(site-\d+).*|TaskScriptRunner - INFO - (round .*)", line)
            if "TaskScriptRunner" in line and progress and progress.group(2):
                print(f"  {progress.group(2)}", flush=True)
    if process.wait() != 0:
        sys.exit(f"the simulator failed, see {log_file}")


def print_table(workspace: Path) -> None:
    files = sorted((workspace / "run").glob("*/simulate_job/rounds.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    print(f"\n{'round':>5} {'loss':>10} {'training (s)':>13} {'executor overhead (ms)':>23}")
    for number in sorted({record["round"] for record in records}):
        of_round = [record for record in records if record["round"] == number]
        loss, training, overhead = (
            statistics.mean(record[key] for record in of_round) for key in ("loss", "train_seconds", "overhead_seconds")
        )
        print(f"{number:>5} {loss:>10.4f} {training:>13.3f} {overhead * 1000:>23.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workspace", type=Path, default=Path(".demo"))
    args = parser.parse_args()

    workspace = args.workspace.resolve()
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    print(f"{args.clients} sites train {args.rounds} rounds in nvflare's simulator (takes about half a minute) ...")
    run_simulator(build_job(args.clients, args.rounds), workspace, args.clients)
    print_table(workspace)
    print(f"\nresults: {workspace / 'run'}\nlog:     {workspace / 'simulator.log'}")


if __name__ == "__main__":
    main()
