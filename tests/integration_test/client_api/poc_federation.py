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

"""A real federation for tests: a server and sites as processes of their own, made by nvflare's own POC tooling.

All that the federation starts inherits an environment variable with the federation's folder, and that is how every one
of its processes is found again: those of a job by the job's id in their command line or working directory, and at the
end all of them, whatever they did to their session, parent or name.
"""

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Callable, Iterable, Iterator, List

import yaml

from nvflare.fuel.flare_api.flare_api import new_secure_session
from nvflare.job_config.api import FedJob
from nvflare.lighter.provision import gen_default_project_config
from tests.unit_test.app_common.executors.job_harness import free_port

ADMIN = "admin@nvidia.com"
SERVER = "server"
WORKSPACE_VARIABLE = "NVFLARE_POC_WORKSPACE"  # read by nvflare, too
BOOTSTRAP_FILE = "client_api_config.json"
# What the administrators set, so that a job need not wait a minute for a site that has gone. nvflare reads these.
TUNING = {"NVFLARE_DEAD_CLIENT_GRACE_PERIOD": "5", "NVFLARE_SYNC_CLIENT_JOBS_REQUIRE_PREVIOUS_REPORT": "false"}

# All bounds in seconds.
START_TIMEOUT = 90
COMMAND_TIMEOUT = 120
LOGIN_TIMEOUT = 60
JOB_TIMEOUT = 300
# From the end of a job at the server to the end of its last process at a site.
JOB_END_TIMEOUT = 60
STOP_TIMEOUT = 60
STATUS_POLL_INTERVAL = 0.5


class PocFederation:
    """Runs as long as its context; jobs go through the FLARE API."""

    def __init__(self, root: Path, sites: int = 2, allowed: Iterable[str] = ()):
        """Initializes a federation; nothing is started.

        Args:
            root: an empty folder, of which nothing but the federation and its jobs is kept.
            sites: their number; their names are site-1, site-2, ...
            allowed: classes that the sites let jobs without code name, beside those that nvflare lists.
        """
        self.root = root
        self.sites = [f"site-{number + 1}" for number in range(sites)]
        self.workspace = root / "poc"
        self._allowed = list(allowed)
        self._home = root / "home"  # nvflare notes startup kits in the user's home, and these are not the user's

    def __enter__(self) -> "PocFederation":
        self._home.mkdir()
        project = self._write_project()
        try:
            self._poc("prepare", "-i", str(project))
            (self._kits,) = self.workspace.glob("*/prod_00")
            self._allow_classes()
            # Its own wait gives a connection one second each time, and hangs if one is there just when it is given up.
            self._poc("start", "--no-wait")
            self.wait_connected()
        except BaseException:  # a federation that is half there must not outlive an interrupted test run either
            self._kill(self.processes())
            raise
        return self

    def __exit__(self, *exc_info) -> None:
        try:
            # Not for nvflare's 30 s: a server whose site's goodbye got lost waits as long itself. The processes tell.
            self._poc("stop", "--no-wait")
        finally:
            left = wait_for_end(self.processes, STOP_TIMEOUT)
            self._kill(left)
        assert left == [], "the federation has left processes"

    def wait_connected(self, timeout: float = START_TIMEOUT) -> None:
        """Waits (seconds) until all sites are registered at the server."""
        deadline = time.monotonic() + timeout
        with self.session() as session:
            while set(self.sites) - {client.name for client in session.get_connected_client_list()}:
                assert time.monotonic() < deadline, "not all sites are connected"
                time.sleep(STATUS_POLL_INTERVAL)

    def _write_project(self) -> Path:
        path = self.root / "project.yml"
        gen_default_project_config("dummy_project.yml", str(path))
        project = yaml.safe_load(path.read_text())
        fed_learn_port, admin_port = free_port(), free_port()
        server = {"name": SERVER, "type": "server", "org": "nvidia", "default_host": "localhost"}
        server.update(fed_learn_port=fed_learn_port, admin_port=admin_port)
        clients = [{"name": site, "type": "client", "org": "nvidia"} for site in self.sites]
        admins = [p for p in project["participants"] if p["name"] == ADMIN]
        project["participants"] = [server, *clients, *admins]
        path.write_text(yaml.safe_dump(project))
        return path

    def _allow_classes(self) -> None:
        for site in self.sites if self._allowed else ():
            local = self.startup_kit(site) / "local"
            resources = json.loads((local / "resources.json.default").read_text())
            resources["class_allow_list"] += self._allowed
            (local / "resources.json").write_text(json.dumps(resources))

    def _poc(self, *arguments: str) -> None:
        path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
        env = {**os.environ, **TUNING, "HOME": str(self._home), "PATH": path, WORKSPACE_VARIABLE: str(self.workspace)}
        # To a file: the federation's processes inherit it, and a pipe would be open as long as they are.
        with open(self.root / "poc.log", "a+") as log:
            # A command that hangs is aborted, which has Python write where.
            limit = ["timeout", "--foreground", "--signal=ABRT", str(COMMAND_TIMEOUT)]
            command = [*limit, sys.executable, "-X", "faulthandler", "-m", "nvflare.cli", "poc", *arguments]
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        assert done.returncode == 0, (self.root / "poc.log").read_text()

    def processes(self) -> List[int]:
        """The pids of all that runs in this federation."""
        return find_processes(WORKSPACE_VARIABLE, str(self.workspace))

    @staticmethod
    def _kill(pids: List[int]) -> None:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself

    def startup_kit(self, name: str) -> Path:
        """The folder of a participant: of its startup kit, its log and its jobs."""
        return self._kits / name

    @contextmanager
    def session(self) -> Iterator:
        """A session of the FLARE API."""
        with warnings.catch_warnings():
            # The API connects on a thread of its own, and would retry for ever what a warning as an error stops.
            warnings.simplefilter("ignore", DeprecationWarning)
            with redirect_stdout(io.StringIO()):
                session = new_secure_session(ADMIN, str(self.startup_kit(ADMIN)), timeout=LOGIN_TIMEOUT)
            try:
                yield session
            finally:
                session.close()

    def run(self, job: FedJob, meanwhile: Callable = None, has_code: bool = True) -> "PocJob":
        """Runs a job to its end, and until no process of it is left or JOB_END_TIMEOUT is over.

        Args:
            job: the job; its name must be unique in this federation.
            meanwhile: called with the job and the session once the job is submitted.
            has_code: whether nvflare takes the job for one with code of its own, as it does each job of a FedJob.
        """
        job.export_job(str(self.root / "jobs"))
        for folder in () if has_code else (self.root / "jobs" / job.name).glob("*/custom"):
            folder.rmdir()  # empty, and enough
        with self.session() as session:
            poc_job = PocJob(self, session.submit_job(str(self.root / "jobs" / job.name)))
            if meanwhile:
                meanwhile(poc_job, session)
            poc_job.finish(session)
        return poc_job


class PocJob:
    """A job that was submitted, and once it is finished what became of it."""

    def __init__(self, federation: PocFederation, job_id: str):
        self.job_id = job_id
        self.status = ""
        self.left_processes = []
        self.left_bootstraps = []
        self.server_dir = None  # the downloaded run folder of the server
        self._federation = federation

    def finish(self, session, timeout: float = JOB_TIMEOUT) -> None:
        """Waits (seconds) for the job's end and that of its processes, and downloads its results.

        Raises:
            JobTimeout: the job does not end.
        """
        meta = session.wait_for_job(self.job_id, timeout=timeout, poll_interval=STATUS_POLL_INTERVAL)
        self.status = meta["status"]
        self.look_for_leftovers()
        results = session.download_job_result(self.job_id, str(self._federation.root / "results"))
        self.server_dir = Path(results) / "workspace"

    def look_for_leftovers(self) -> None:
        """Waits until no process of the job is left or JOB_END_TIMEOUT is over, and notes what is left."""
        self.left_processes = [_describe(pid) for pid in wait_for_end(self.processes, JOB_END_TIMEOUT)]
        self.left_bootstraps = [
            str(path) for site in self._federation.sites for path in self.site_dir(site).rglob(f"*{BOOTSTRAP_FILE}*")
        ]

    def processes(self) -> List[int]:
        """The pids of this job's processes, at the server and at the sites."""
        job_id = self.job_id.encode()
        return [pid for pid in self._federation.processes() if job_id in _read(pid, "cmdline") + _cwd(pid)]

    def site_dir(self, site: str) -> Path:
        """The run folder of a site."""
        return self._federation.startup_kit(site) / self.job_id

    def log(self, site: str) -> str:
        """What the client job process of a site has logged."""
        return (self.site_dir(site) / "log.txt").read_text()


class Signpost:
    """A named pipe on which processes of a job tell a test where they are."""

    def __init__(self, path: Path):
        self.path = path
        os.mkfifo(path)

    def wait_lines(self, count: int, timeout: float) -> List[str]:
        """Waits (`timeout` in seconds) for so many lines."""
        deadline = time.monotonic() + timeout
        data = b""
        # Open for writing, too, so that there is no end of file between two writers.
        pipe = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        try:
            while data.count(b"\n") < count:
                readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
                assert readable, f"only {data!r} came in {timeout} s"
                data += os.read(pipe, 4096)
        finally:
            os.close(pipe)
        return data.decode().splitlines()


def wait_for_end(find: Callable[[], List[int]], timeout: float) -> List[int]:
    """Waits until `find` finds no process any more; returns those that are left after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        pids = find()
        if not pids:
            return []
        try:
            process = os.pidfd_open(pids[0])
        except ProcessLookupError:
            continue  # it ended just now
        try:
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.poll(1000 * max(0.0, deadline - time.monotonic()))
        finally:
            os.close(process)
    return find()


def find_processes(variable: str, value: str) -> List[int]:
    """The pids of all processes that have this in the environment that they were started with."""
    marker = f"{variable}={value}".encode()
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if marker in _read(pid, "environ").split(bytes(1))]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:
        return b""  # it has ended, or is another user's


def _cwd(pid: int) -> bytes:
    try:
        return os.readlink(f"/proc/{pid}/cwd").encode()
    except OSError:
        return b""


def _describe(pid: int) -> str:
    return f"{pid}: {_read(pid, 'cmdline').replace(bytes(1), b' ').decode()}"
