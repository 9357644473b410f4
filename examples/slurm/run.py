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

"""A batch job that attaches, is preempted in a round, and is restarted: `.venv/bin/python examples/slurm/run.py`.

The federated job runs in nvflare's simulator, and a stand-in takes the place of Slurm: see README.md for a real one.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob

HERE = Path(__file__).resolve().parent
FEATURES = 20  # of the model in train.py


def build_job(rounds: int) -> FedJob:
    job = FedJob(name="slurm", min_clients=1)
    persistor_id = job.to_server(NPModelPersistor(model=[0.0] * FEATURES), id="persistor")
    job.to_server(FedAvg(num_clients=1, num_rounds=rounds, persistor_id=persistor_id))
    # attach_timeout: as long as a batch job may be queued. The successor of a lost trainer gets its task.
    job.to_clients(ClientAPIExecutor("attach", attach_timeout=3600.0, allow_reconnect=True), tasks=["train"])
    return job


def slurm_environment(folder: Path) -> dict:
    """Makes the commands of the stand-in; returns an environment that has them first."""
    folder.mkdir()
    for name in ("sbatch", "scontrol", "srun"):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(HERE / "stand_in.py"), name])} "$@"\n')
        command.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable}


def wait_for_text(text: str, output: Path, simulator: subprocess.Popen) -> None:
    while not (output.exists() and text in output.read_text()):
        if simulator.poll() is not None:
            sys.exit(f"the federated job has ended before {output} told {text!r}")
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workspace", type=Path, default=Path(".demo-slurm"), help="deleted first if it exists")
    args = parser.parse_args()

    workspace = args.workspace.resolve()
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    env = slurm_environment(workspace / "bin")
    site = workspace / "simulator"
    build_job(args.rounds).export_job(str(workspace / "jobs"))

    sbatch = ["sbatch", "--wait", str(HERE / "trainer.sbatch"), str(site), str(HERE / "train.py")]
    batch = subprocess.Popen(sbatch, stdout=subprocess.PIPE, text=True, env=env, cwd=workspace)
    simulate = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(workspace / "jobs" / "slurm")]
    with open(workspace / "simulator.log", "w") as log:
        simulator = subprocess.Popen([*simulate, "-w", str(site), "-n", "1"], stdout=log, stderr=subprocess.STDOUT)
    try:
        batch_id = re.search(r"\d+", batch.stdout.readline())[0]
        output = workspace / f"slurm-{batch_id}.out"
        wait_for_text("round 0: step 5 is kept", output, simulator)
        subprocess.run(["scontrol", "requeue", batch_id], env=env, check=True)
        codes = simulator.wait(), batch.wait()
    finally:
        for process in (simulator, batch):
            process.terminate()
            process.wait()

    print(output.read_text())
    if codes != (0, 0):
        sys.exit(f"exit codes of the federated job and of the batch job: {codes}, see {workspace}")
    resumed = re.search(r"^round (\d+) from step ([1-9]\d*)", output.read_text(), re.MULTILINE)
    if not resumed:
        sys.exit("no round was taken up again")
    print(f"the batch job was preempted and restarted: round {resumed[1]} went on at step {resumed[2]}")


if __name__ == "__main__":
    main()
