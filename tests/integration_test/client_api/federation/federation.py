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

"""A federation as a hospital has it: provisioned, mutual TLS, started from startup kits, links that fail.

nvflare's own provisioning makes the startup kits, their own scripts start server, sites and, if wanted, a relay, each
as processes of its own. A site lives in a network namespace of its own if this user may make one (see site_link.py),
else behind a TCP relay; either way its link can be cut, healed and delayed. All files are below one folder. A keeper
process ends everything when the federation's owner is gone, however that came about.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Callable, Dict, List, Optional

import yaml

from nvflare.fuel.flare_api.api_spec import InternalError
from nvflare.job_config.api import FedJob
from tests.integration_test.client_api.federation.links import HOSTS, RELAY, SERVER_HOST, SiteLink, may_have_namespaces
from tests.integration_test.client_api.federation.parts import (
    FEDERATION_VARIABLE,
    OWNER_VARIABLE,
    Inventory,
    Part,
    find_parts,
    take_inventory,
)
from tests.integration_test.client_api.poc_federation import (
    ADMIN,
    SERVER,
    STOP_TIMEOUT,
    PocFederation,
    PocJob,
    wait_for_end,
)
from tests.unit_test.app_common.executors.job_harness import free_port

HERE = Path(__file__).parent
PROJECT = "hospital"
ATTACH = "nvflare.app_common.executors.client_api.attach"
# What the administrators set, so that a job need not wait a minute for a site that has gone. nvflare reads these.
TUNING = {"NVFLARE_DEAD_CLIENT_GRACE_PERIOD": "5", "NVFLARE_SYNC_CLIENT_JOBS_REQUIRE_PREVIOUS_REPORT": "false"}
# Seconds.
SHUTDOWN_TIMEOUT = 30.0
ATTACH_WAIT = 60.0


class Federation(PocFederation):
    """Runs as long as its context; jobs go through the FLARE API."""

    def __init__(
        self,
        root: Path,
        sites: int = 3,
        with_relay: bool = False,
        in_namespaces: Optional[bool] = None,
        prepare: Callable[["Federation"], None] = lambda _: None,
    ):
        """Initializes a federation; nothing is started.

        Args:
            root: an empty folder, of which nothing but the federation and its jobs is kept.
            sites: their number; their names are site-1, site-2, ...
            with_relay: whether the last site is connected through one of nvflare's relays.
            in_namespaces: whether each site has its own network namespace; None: if this user may do that.
            prepare: called once the startup kits are there and before anything is started from them.
        """
        super().__init__(root, sites)
        self.workspace = root / "provisioned"
        self.temporary = root / "tmp"
        self._attached: Dict[str, Callable[[], str]] = {}  # by site: starts its user's trainer
        self._with_relay = with_relay
        self._in_namespaces = may_have_namespaces() if in_namespaces is None else in_namespaces
        self.port, self.relay_port = free_port(), free_port()
        self._links: Dict[str, SiteLink] = {}
        self._processes: Dict[str, subprocess.Popen] = {}
        self._prepare = prepare
        self._exit = ExitStack()

    @property
    def participants(self) -> List[str]:
        return [SERVER, *([RELAY] if self._with_relay else []), *self.sites]

    def __enter__(self) -> "Federation":
        with ExitStack() as undo:
            self._home.mkdir()
            self.temporary.mkdir()
            undo.callback(self._sweep, self._start_keeper())
            for site in self.sites:
                self._links[site] = self._start_link(site)
                undo.callback(self._links[site].close)
            self._provision()
            self._prepare(self)
            for name in self.participants:
                self.start(name)
            self.wait_connected()
            self._exit = undo.pop_all()
        return self

    def __exit__(self, *exc_info) -> None:
        with self._exit:
            left = self._shut_down()
        assert left == [], f"the federation has left {', '.join(str(part) for part in left)}"

    def _shut_down(self) -> List[Part]:
        """Has everyone shut down as an administrator does; returns the processes that did not."""
        for site in self.sites:
            self.heal(site)
        for part in self.parts():
            part.send(SIGCONT)
        if self.parts(role="server"):
            with self.session() as session:
                self._abort_jobs(session)
                # The sites first: one behind a relay could not be told once the relay has gone with the server.
                if self.parts(role="CP"):
                    session.shutdown("client", wait=False)
                    wait_for_end(lambda: [part.pid for part in self.parts(role="CP")], SHUTDOWN_TIMEOUT)
                session.shutdown("server", wait=False)
        for part in self.parts(role="relay"):
            part.send(SIGTERM)  # no command of the administrator's reaches a relay
        # So long a trainer that has come too late waits for a job.
        pids = wait_for_end(lambda: [part.pid for part in self.parts()], ATTACH_WAIT + SHUTDOWN_TIMEOUT)
        return [part for part in self.parts() if part.pid in pids]

    def _abort_jobs(self, session) -> None:
        running = [job["job_id"] for job in session.list_jobs() if not job["status"].startswith("FINISHED")]
        for job_id in running:
            if self.abort(session, job_id):
                session.wait_for_job(job_id, timeout=SHUTDOWN_TIMEOUT)

    @staticmethod
    def abort(session, job_id: str) -> bool:
        """Aborts a job; tells whether there was one: a server that was restarted has only the status RUNNING of it."""
        try:
            session.abort_job(job_id)
        except InternalError as e:
            if "not running" not in str(e):
                raise
            return False
        return True

    # What the federation is made of

    def _start_keeper(self) -> subprocess.Popen:
        command = [sys.executable, str(HERE / "keeper.py"), FEDERATION_VARIABLE, str(self.root)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(command, text=True, start_new_session=True, **pipes)

    def _sweep(self, keeper: subprocess.Popen) -> None:
        """Has the keeper end all that is left."""
        keeper.communicate(timeout=STOP_TIMEOUT)
        for process in self._processes.values():
            process.wait(STOP_TIMEOUT)

    def _start_link(self, site: str) -> SiteLink:
        hosts = self.root / "hosts"
        hosts.write_text(HOSTS)
        argument = str(hosts) if self._in_namespaces else str(self.port)
        with open(self.root / f"{site}-link.log", "w") as log:
            return SiteLink(argument, self._in_namespaces, log)

    def _provision(self) -> None:
        project = self.root / "project.yml"
        project.write_text(yaml.safe_dump(self._project(), sort_keys=False))
        command = [sys.executable, "-m", "nvflare.cli", "provision", "-p", str(project), "-w", str(self.workspace)]
        with open(self.root / "provision.log", "w") as log:
            subprocess.run(command, check=True, env=self._environment(""), stdout=log, stderr=log, cwd=self.root)
        self._kits = self.workspace / PROJECT / "prod_00"
        self.configure(SERVER, "resources.json", self._store_below_root)

    def _project(self) -> dict:
        server = {"name": SERVER, "type": "server", "org": "nvidia", "default_host": "localhost"}
        server.update(host_names=[SERVER_HOST], fed_learn_port=self.port, admin_port=self.port)
        participants = [server]
        if self._with_relay:
            listener = {"default_host": RELAY, "host_names": ["localhost"], "port": self.relay_port, "scheme": "tcp"}
            participants.append({"name": RELAY, "type": "relay", "org": "nvidia", "listening_host": listener})
        for site, link in self._links.items():
            host = {"host": SERVER_HOST} if link.port is None else {"host": "localhost", "port": link.port}
            if self._with_relay and site == self.sites[-1]:
                host = {"name": RELAY}
            participants.append({"name": site, "type": "client", "org": "nvidia", "connect_to": host})
        participants.append({"name": ADMIN, "type": "admin", "org": "nvidia", "role": "project_admin"})
        package = "nvflare.lighter.impl"
        builders = [
            {"path": f"{package}.workspace.WorkspaceBuilder"},
            {"path": f"{package}.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
            {"path": f"{package}.cert.CertBuilder"},
            {"path": f"{package}.signature.SignatureBuilder"},
        ]
        return {"api_version": 3, "name": PROJECT, "participants": participants, "builders": builders}

    def _store_below_root(self, resources: str) -> str:
        return re.sub('"/tmp/nvflare/([a-z-]*)"', rf'"{self.root}/\1"', resources)

    def configure(self, name: str, file: str, change) -> None:
        """Changes a file in a participant's `local` folder, as a site's administrator does: text in, text out."""
        local = self.startup_kit(name) / "local"
        present = local / file
        source = present if present.exists() else next(local.glob(f"{file}.*"))
        present.write_text(change(source.read_text()))

    def _environment(self, owner: str) -> Dict[str, str]:
        """What a process of the federation is started with: this interpreter, and no folders of the user's."""
        path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
        own = {"HOME": str(self._home), "TMPDIR": str(self.temporary), "PATH": path}
        return {**os.environ, **own, **TUNING, **self._marks(owner)}

    def _marks(self, owner: str) -> Dict[str, str]:
        """What its processes are found by."""
        return {FEDERATION_VARIABLE: str(self.root), OWNER_VARIABLE: owner}

    # Participants

    def start(self, name: str) -> None:
        """Starts a participant by the script of its startup kit."""
        self.run_at(name, ["bash", str(self.startup_kit(name) / "startup" / "sub_start.sh"), "--once"])

    def run_at(self, name: str, command: List[str], key: str = "", folder: Path = None, env: dict = None) -> None:
        """Starts a command where a participant is. The federation's end is its end.

        Args:
            name: the participant.
            command: the command.
            key: a name for `output` and `wait_exit`; the participant's if it is the participant itself.
            folder: its working directory; the participant's if not given.
            env: its environment; if not given, what the participant itself has.
        """
        key, folder = key or name, folder or self.startup_kit(name)
        link = self._links.get(name)
        earlier = self._processes.get(key)
        if earlier:
            earlier.wait(STOP_TIMEOUT)
        with open(self.root / f"{key}.log", "a") as log:
            self._processes[key] = subprocess.Popen(
                link.enter(command, folder) if link else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=folder,
                env={**self._marks(name), **env} if env is not None else self._environment(name),
            )

    def wait_exit(self, key: str, timeout: float) -> int:
        """Waits (seconds) for the end of a command that run_at has started; returns its exit code."""
        return self._processes[key].wait(timeout)

    def output(self, key: str) -> str:
        """What a participant, or a command that was run there, has printed."""
        return (self.root / f"{key}.log").read_text()

    # Jobs

    def submit(self, job: FedJob) -> PocJob:
        """Submits a job, and does not wait."""
        job.export_job(str(self.root / "jobs"))
        return self.submit_folder(self.root / "jobs" / job.name)

    def submit_folder(self, folder: Path) -> PocJob:
        with self.session() as session:
            return PocJob(self, session.submit_job(str(folder)))

    def console(self, session, job_id: str) -> Dict[str, str]:
        """What an administrator gets to see of a job by the console's own means: its status, logs and error logs.

        Sites send their error logs to the server on their own (SiteLogStreamer, in each startup kit of 2.8.3).
        """
        found = {"status": str(session.get_job_meta(job_id).get("status"))}
        logs = session.get_job_logs(job_id, SERVER)["logs"]
        found["server's log"] = logs.get(SERVER, "")
        if any(name.startswith("ERRORLOG") for name in session.list_job_components(job_id)):
            folder = Path(session.download_job_components(job_id))
            found.update({path.name: path.read_text() for path in sorted(folder.rglob("ERRORLOG_*"))})
            shutil.rmtree(folder)
        return found

    def attach(self, site: str, script: Path, *args: str, options=()) -> str:
        """Starts a trainer at a site, as its user does: in a clean environment, with nothing but the site's folder.

        Returns its key for `output` and `wait_exit`.
        """
        key = f"{site}-attached"
        self._attached[site] = partial(self.attach, site, script, *args, options=options)
        command = [sys.executable, "-u", "-m", ATTACH, "--workspace", str(self.startup_kit(site)), "--site", site]
        command += [*options, "--wait", str(ATTACH_WAIT), "--", str(script), *args]
        path = {"PATH": os.path.dirname(sys.executable) + os.pathsep + os.defpath}
        self.run_at(site, command, key, folder=self.temporary, env=path)
        return key

    def attach_again(self, site: str) -> str:
        """Starts another trainer at a site, as the one before was started."""
        return self._attached[site]()

    def detach(self, site: str) -> None:
        """Ends the trainer that `attach` has started at a site; one whose job is over may wait for another."""
        process = self._processes.get(f"{site}-attached")
        if process:
            process.kill()
            process.wait(STOP_TIMEOUT)

    # Faults

    def cut(self, site: str) -> None:
        """Everything between a site and its server is lost from now on."""
        self._links[site].tell("cut")

    def heal(self, site: str) -> None:
        self._links[site].tell("heal")

    def delay(self, site: str, seconds: float) -> None:
        """Holds each packet on the way between a site and its server for so long."""
        self._links[site].tell(f"delay {seconds}")

    def parts(self, role: str = "", owner: str = "", job_id: str = "") -> List[Part]:
        """The processes with this role, of this participant, of this job; all if nothing is given."""
        return [
            part
            for part in find_parts(self.root)
            if role in ("", part.role) and owner in ("", part.owner) and job_id in ("", part.job_id)
        ]

    def kill(self, role: str, owner: str = "", job_id: str = "") -> None:
        """Kills processes, and returns when they have ended: so has by then what the kernel ends with them."""
        killed = self._signal(SIGKILL, role, owner, job_id)
        wait_for_end(lambda: [part.pid for part in self.parts(role, owner, job_id) if part in killed], STOP_TIMEOUT)

    def stop(self, role: str, owner: str = "", job_id: str = "") -> None:
        self._signal(SIGSTOP, role, owner, job_id)

    def resume(self, role: str, owner: str = "", job_id: str = "") -> None:
        self._signal(SIGCONT, role, owner, job_id)

    def _signal(self, number, role: str, owner: str, job_id: str) -> List[Part]:
        parts = self.parts(role, owner, job_id)
        assert parts, f"there is no {role} of {owner or 'anybody'}"
        for part in parts:
            part.send(number)
        return parts

    def restart(self, name: str) -> None:
        """Kills a participant's own process, as a crash does, and starts it again."""
        for part in self._own_processes(name):
            part.send(SIGKILL)
        self.start(name)

    def repair(self) -> None:
        """Undoes faults: links pass everything, stopped processes run, participants that have ended are started."""
        for site in self.sites:
            self.heal(site)
            self.delay(site, 0.0)
        for part in self.parts():
            part.send(SIGCONT)
        for name in self.participants:
            if not self._own_processes(name):
                self.start(name)
        self.wait_connected()

    def _own_processes(self, name: str) -> List[Part]:
        return [part for part in self.parts(owner=name) if part.role in ("server", "CP", "relay")]

    # What is there

    def processes(self) -> List[int]:
        return [part.pid for part in self.parts()]

    def inventory(self) -> Inventory:
        """What there is of the federation: processes, sockets, credentials and their modes, files."""
        return take_inventory(self.root, self.temporary)
