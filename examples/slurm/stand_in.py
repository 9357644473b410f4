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

"""A stand-in for the commands of Slurm that this example uses, on a machine that has none.

stand_in.py sbatch --wait SCRIPT ARGS    runs a batch job, until it has ended for good; its id is this process's
stand_in.py scontrol requeue JOB_ID      what preemption does: SIGTERM, later SIGKILL, and the job begins anew
stand_in.py srun COMMAND ARGS
"""

import os
import signal
import subprocess
import sys

# Seconds from SIGTERM to SIGKILL, as Slurm's KillWait.
KILL_WAIT = 30


class BatchJob:
    def __init__(self, script: str, *args: str):
        self.command = ["bash", script, *args]
        self.is_requeued = False
        self.process = None

    def requeue(self, *_) -> None:
        self.is_requeued = True
        self.signal_all(signal.SIGTERM)
        signal.alarm(KILL_WAIT)

    def signal_all(self, signum: int) -> None:
        try:
            os.killpg(self.process.pid, signum)
        except ProcessLookupError:
            pass  # it has just ended

    def run(self) -> int:
        """Runs the job, and again if it was requeued; returns its exit code."""
        restarts = 0
        while True:
            self.is_requeued = False
            self.start(restarts)
            if restarts == 0:
                signal.signal(signal.SIGUSR1, self.requeue)
                signal.signal(signal.SIGALRM, lambda *_: self.signal_all(signal.SIGKILL))
                print(f"Submitted batch job {os.getpid()}", flush=True)
            try:
                code = self.process.wait()
            finally:
                signal.alarm(0)
                self.signal_all(signal.SIGKILL)
            if not self.is_requeued:
                return code
            restarts += 1

    def start(self, restarts: int) -> None:
        env = {**os.environ, "SLURM_JOB_ID": str(os.getpid()), "SLURM_RESTART_COUNT": str(restarts)}
        with open(f"slurm-{os.getpid()}.out", "a") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )


def terminate(*_) -> None:
    sys.exit(143)


if __name__ == "__main__":
    if sys.argv[1:3] == ["sbatch", "--wait"]:
        signal.signal(signal.SIGTERM, terminate)
        sys.exit(BatchJob(*sys.argv[3:]).run())
    elif sys.argv[1:3] == ["scontrol", "requeue"]:
        os.kill(int(sys.argv[3]), signal.SIGUSR1)
    elif sys.argv[1:2] == ["srun"]:
        os.execvp(sys.argv[2], sys.argv[2:])
    else:
        sys.exit(__doc__)
