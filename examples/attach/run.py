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

"""Two federated jobs and one resident trainer that serves them in turn: `.venv/bin/python examples/attach/run.py`.

The trainer is started first and belongs to nobody but this script. The first job reaches it over nvflare's cellnet, the
second one over a shared folder, as on compute nodes without a network.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.file_pipe import FilePipe
from nvflare.job_config.api import FedJob

HERE = Path(__file__).resolve().parent
ATTACH = "nvflare.app_common.executors.client_api.attach"


def build_job(name: str, rounds: int, shared_folder: Path = None) -> FedJob:
    job = FedJob(name=name, min_clients=1)
    persistor_id = job.to_server(NPModelPersistor(model=[0.0, 0.0, 0.0, 0.0]), id="persistor")
    job.to_server(FedAvg(num_clients=1, num_rounds=rounds, persistor_id=persistor_id))
    job.to_clients(ClientAPIExecutor("attach", attach_timeout=60.0), tasks=["train"])
    if shared_folder:
        job.to_clients(FilePipe(mode=Mode.PASSIVE, root_path=str(shared_folder)), id="client_api_pipe")
    return job


def run_simulator(workspace: Path, job: FedJob) -> int:
    job.export_job(str(workspace / "jobs"))
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator"]
    command += [str(workspace / "jobs" / job.name), "-w", str(workspace / job.name), "-n", "1", "-t", "1"]
    with open(workspace / f"{job.name}.log", "w") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workspace", type=Path, default=Path(".demo-attach"), help="deleted first if it exists")
    args = parser.parse_args()

    workspace = args.workspace.resolve()
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)

    # The trainer may run in another directory, be started by another program, and before there is any job.
    command = [sys.executable, "-m", ATTACH, "--workspace", str(workspace), "--follow", "--", str(HERE / "train.py")]
    trainer = subprocess.Popen(command, cwd=os.path.expanduser("~"))
    try:
        for name, shared_folder in (("cellnet", None), ("shared_folder", workspace / "shared")):
            print(f"\njob {name} starts ...", flush=True)
            exit_code = run_simulator(workspace, build_job(name, args.rounds, shared_folder))
            if exit_code:
                sys.exit(f"the job failed (exit code {exit_code}), see {workspace / name}.log")
        if trainer.poll() is not None:
            sys.exit("the trainer has not outlived the jobs")
        print("\nboth jobs have ended, and the trainer waits for the next one; it is terminated now")
    finally:
        trainer.terminate()
        trainer.wait()


if __name__ == "__main__":
    main()
