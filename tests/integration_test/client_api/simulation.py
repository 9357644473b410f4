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

"""Jobs in nvflare's simulator, which is a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import List, Sequence, Union

import numpy as np

from nvflare.app_common.np.np_formatter import NPFormatter
from nvflare.app_common.np.np_model_locator import NPModelLocator
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.widgets.validation_json_generator import ValidationJsonGenerator
from nvflare.app_common.workflows.cross_site_model_eval import CrossSiteModelEval
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob
from tests.integration_test.client_api.attach_harness import Trainer
from tests.integration_test.client_api.poc_federation import find_processes, wait_for_end
from tests.integration_test.client_api.simulator_parts import LOG_FILE, hurry
from tests.unit_test.app_common.executors.job_harness import PROJECT

# Seconds after which a job is taken to hang.
JOB_TIMEOUT = 200
JOB_VARIABLE = "SIMULATED_JOB"  # every process of a simulation has this in its environment


class Simulation:
    """A job in the simulator: a process that is already running."""

    def __init__(self, root: Path, job: Path, sites: Union[int, Sequence[str]] = 1, threads: int = 0, **environment):
        """Starts it.

        Args:
            root: where it runs, and where what it leaves is in "run".
            job: the folder of the job.
            sites: their number or their names.
            threads: how many sites run at a time; 0: all.
            environment: variables for all its processes.
        """
        self.root = root
        self.run_dir = root / "run"
        names = [f"site-{number + 1}" for number in range(sites)] if isinstance(sites, int) else sites
        variables = {
            JOB_VARIABLE: str(root),
            "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
            **environment,
        }
        self._process = Trainer(
            *(sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(job)),
            *("-w", str(self.run_dir), "-c", ",".join(names), "-t", str(threads or len(names))),
            cwd=root,
            **variables,
        )

    def wait_for(self, text: str) -> str:
        """Waits until the log has a text; returns the log."""
        self._process.output.wait_for(text)
        return self._process.output.text()

    def finish(self) -> "Simulation":
        """Waits for the end."""
        try:
            self.exit_code = self._process.exit_code(JOB_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job hangs:\n{self._process.output.text()}") from None
        finally:
            self.stop()
        self.left_processes = find_processes(JOB_VARIABLE, str(self.root))
        return self

    def interrupt(self) -> "Simulation":
        """Does what Ctrl-C at its terminal does, and waits for the end of all its processes."""
        os.killpg(self._process.process.pid, signal.SIGINT)
        wait_for_end(lambda: find_processes(JOB_VARIABLE, str(self.root)), JOB_TIMEOUT)
        return self.finish()

    def stop(self) -> None:
        self._process.stop()

    @property
    def log(self) -> str:
        return self._process.output.text()

    @property
    def server_dir(self) -> Path:
        return self.run_dir / "server" / "simulate_job"

    def site_log(self, site: str, name: str = "log.txt") -> str:
        return (self.run_dir / site / name).read_text()

    def global_model(self) -> np.ndarray:
        return np.load(self.server_dir / "models" / "server.npy")

    def lines(self, name: str) -> list:
        """What a file of the server's has, one line of JSON after the other."""
        return [json.loads(line) for line in (self.server_dir / name).read_text().splitlines()]

    def log_records(self) -> list:
        """The (site, tag, value, step) of each log record at the server, in the order of arrival."""
        return self.lines(LOG_FILE)

    def cross_site_results(self) -> dict:
        return json.loads((self.server_dir / "cross_site_val" / "cross_val_results.json").read_text())

    def left_files(self) -> List[Path]:
        """Bootstrap files and rendezvous, or parts of them."""
        return list(self.run_dir.rglob("*client_api_*.json*"))


class SimulatedJob:
    """A job of FedAvg with a script; run() gives it to the simulator."""

    def __init__(self, root: Path, script: str = "", sites: int = 1, rounds: int = 2):
        self.root = root
        self.initial_model = np.zeros(3)
        self.fed_job = FedJob(name="job", min_clients=sites)
        self._sites = sites
        self._client_config = {}
        self.fed_job.to_server(NPModelPersistor(source_ckpt_file_full_name=str(root / "initial.npy")), id="persistor")
        self.fed_job.to_server(FedAvg(num_clients=sites, num_rounds=rounds, persistor_id="persistor"))
        hurry(self.fed_job)
        if script:
            (root / "train.py").write_text(textwrap.dedent(script))
            self.fed_job.add_file_to_clients(str(root / "train.py"))

    def add_cross_site_validation(self) -> None:
        self.fed_job.to_server(NPModelLocator(), id="locator")
        self.fed_job.to_server(NPFormatter(), id="formatter")
        self.fed_job.to_server(ValidationJsonGenerator(), id="json")
        self.fed_job.to_server(CrossSiteModelEval(model_locator_id="locator", formatter_id="formatter"))

    def set_client_config(self, **keys) -> None:
        """Sets keys of the job's client config, as recipe.add_client_config does."""
        self._client_config = keys

    def start(self, threads: int = 0) -> Simulation:
        np.save(self.root / "initial.npy", self.initial_model)
        self.fed_job.export_job(str(self.root / "jobs"))
        config = self.root / "jobs" / "job" / "app" / "config" / "config_fed_client.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **self._client_config}))
        return Simulation(self.root, self.root / "jobs" / "job", self._sites, threads)

    def run(self, threads: int = 0) -> Simulation:
        return self.start(threads).finish()


# What nvflare of its own adds to a log on a loaded machine.
NOISE = re.compile(
    # It answers a greeting before it has noted who greets (ConnManager.process_frame_task): a message that follows at
    # once comes too early, is lost, and is sent again by whoever waits for it.
    r"Error processing frame: AttributeError: 'NoneType' object has no attribute 'endpoint'"
    # Its client runner asks again after a second, and then has two answers.
    r"|Receiving unknown req_id=.*(?:__sync_runner__|server_command:get_task)"
    r"|Failed to get_task from \S+\. Will try it again"
)


def complaints(log: str) -> List[str]:
    """The lines of a log that tell of trouble."""
    trouble = re.compile(r" - (WARNING|ERROR|CRITICAL) - |Traceback")
    return [line for line in log.splitlines() if trouble.search(line) and not NOISE.search(line)]
