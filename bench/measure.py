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

"""One measurement: a simulator job with one site, watched from outside until it ends or its time is up.

The job's processes write time records (job/bench_records.py). Memory, threads and CPU time are sampled from /proc and
the processes' CPU clocks by this process, so that watching costs the watched ones nothing.
"""

import dataclasses
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from typing import Optional

import peers

SITE = "site-1"
JOB_FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "job")
SAMPLE_INTERVAL = 0.1
LEFTOVER_GRACE = 5.0


class MeasurementFailed(Exception):
    """The job did not deliver every round's right result in time."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What to measure; sizes in bytes, times in seconds."""

    peer: str
    mode: str
    size: int = 1024
    rounds: int = 10
    arrays: int = 8
    tensors: str = ""  # their dtype, or empty for NumPy arrays
    at_once: bool = False
    idle_seconds: float = 0.0
    scalars: int = 0  # in the last task
    scalars_each: int = 0  # in each task before

    def plan(self, records: str) -> dict:
        plan = {"records": records, "rounds": self.rounds, "bytes": self.size, "at_once": self.at_once}
        plan.update(arrays=self.arrays, tensors=self.tensors)
        plan["scalars"] = [self.scalars_each] * (self.rounds - 1) + [self.scalars or self.scalars_each]
        if self.idle_seconds:
            plan.update(idle_round=self.rounds - 1, idle_seconds=self.idle_seconds)
        return plan

    def timeout(self) -> float:
        return 120.0 + self.rounds * (20.0 + self.size / 20e6) + self.idle_seconds


class Watch:
    """Samples of every process that has a record file: peaks of memory and threads, CPU time over time."""

    def __init__(self, records: str):
        self._records = records
        self.peak_rss_mb = {}
        self.peak_threads = {}
        self.peak_pss_mb = 0.0  # of the client job and its trainers together
        self.cpu = {}

    def sample(self):
        site = {
            _pid_of(path) for role in ("cj", "trainer") for path in glob.glob(os.path.join(self._records, f"{role}-*"))
        }
        self.peak_pss_mb = max(self.peak_pss_mb, sum(map(_pss_mb, site)))
        for path in glob.glob(os.path.join(self._records, "*.jsonl")):
            pid = _pid_of(path)
            try:
                self._sample_process(pid)
            except (OSError, ValueError):
                continue  # it has ended

    def _sample_process(self, pid: int):
        status = _read(f"/proc/{pid}/status")
        if "VmHWM" not in status:
            return  # a zombie
        self.peak_rss_mb[pid] = int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024
        threads = int(re.search(r"Threads:\s+(\d+)", status).group(1))
        self.peak_threads[pid] = max(threads, self.peak_threads.get(pid, 0))
        cpu_seconds = time.clock_gettime(_cpu_clock(pid))
        self.cpu.setdefault(pid, []).append((time.monotonic(), cpu_seconds))

    def cpu_percent(self, pid: int, begin: float, end: float) -> Optional[float]:
        """CPU use between two times, in percent of one core."""
        inside = [sample for sample in self.cpu.get(pid, []) if begin <= sample[0] <= end]
        if len(inside) < 2:
            return None
        (first_time, first_cpu), (last_time, last_cpu) = inside[0], inside[-1]
        return 100.0 * (last_cpu - first_cpu) / (last_time - first_time)


@dataclasses.dataclass
class Outcome:
    """What was seen of one job. Records by role, each in time order, with the writer's pid."""

    records: dict
    watch: Watch
    leftovers: int
    load_before: float


def run(spec: Spec, python: str, keep: bool) -> Outcome:
    """Runs the job and returns what was seen.

    Raises:
        MeasurementFailed: a result is missing or wrong, or the job did not end; the log is kept and named.
        peers.Unsupported: the peer has no such mode.
    """
    home = os.path.join(peers.BENCH_HOME, "runs", f"{spec.mode}-{spec.peer}-{uuid.uuid4().hex[:8]}")
    records = os.path.join(home, "records")
    job = os.path.join(home, "job")
    plan_path = os.path.join(job, "app", "custom", "plan.json")
    config = peers.client_config(spec.peer, spec.mode, python, plan_path, bool(spec.tensors))
    os.makedirs(records)
    _write_job(job, config, spec.plan(records), plan_path)
    watch = Watch(records)
    load_before = os.getloadavg()[0]
    try:
        failure = _run_job(spec, python, home, watch)
    finally:
        leftovers = _kill_leftovers(home)
    outcome = Outcome(_load_records(records), watch, leftovers, load_before)
    failure = failure or _missing_results(spec, outcome)
    if failure:
        raise MeasurementFailed(f"{failure}; log: {os.path.join(home, 'log.txt')}")
    if not keep:
        shutil.rmtree(home)
    return outcome


def _write_job(job: str, config: dict, plan: dict, plan_path: str):
    shutil.copytree(JOB_FILES, os.path.dirname(plan_path), ignore=shutil.ignore_patterns("__pycache__"))
    args = {"plan_path": plan_path}
    server = {
        "format_version": 2,
        # At 2.8's default of 2 s a peer's slow send() would be over, unseen, before the next task comes.
        "server": {"task_request_interval": 0.1},
        "workflows": [{"id": "bench", "path": "bench_controller.BenchController", "args": args}],
        "components": [{"id": "receiver", "path": "bench_receiver.BenchReceiver", "args": args}],
        "task_data_filters": [],
        "task_result_filters": [],
    }
    _write_json(plan_path, plan)
    _write_json(os.path.join(job, "meta.json"), {"name": "bench", "deploy_map": {"app": ["@ALL"]}, "min_clients": 1})
    _write_json(os.path.join(job, "app", "config", "config_fed_server.json"), server)
    _write_json(os.path.join(job, "app", "config", "config_fed_client.json"), config)


def _run_job(spec: Spec, python: str, home: str, watch: Watch) -> Optional[str]:
    """Returns what went wrong, None if nothing did."""
    workspace = os.path.join(home, "workspace")
    command = [python, "-m", "nvflare.private.fed.app.simulator.simulator", os.path.join(home, "job")]
    job = _start(command + ["-w", workspace, "-c", SITE, "-t", "1"], home)
    trainer = None
    deadline = time.monotonic() + spec.timeout()
    while job.poll() is None:
        if time.monotonic() > deadline:
            return f"not over after {spec.timeout():.0f} s"
        if spec.mode == peers.ATTACH and trainer is None:
            trainer = _start_attach_trainer(spec.peer, python, home, workspace)
        watch.sample()
        time.sleep(SAMPLE_INTERVAL)
    return None


def _start_attach_trainer(peer: str, python: str, home: str, workspace: str) -> Optional[subprocess.Popen]:
    """Starts the trainer as soon as the job has begun to wait for one."""
    run_started = [r for r in _load_records(os.path.join(home, "records"))["cj"] if r["event"] == "run_started"]
    if not run_started:
        return None
    custom = os.path.join(home, "job", "app", "custom")
    script = [os.path.join(custom, "train.py"), os.path.join(custom, "plan.json")]
    if peer == "upstream":
        profile_path = os.path.join(custom, "profile.json")
        _write_json(profile_path, peers.upstream_attach_profile(run_started[0], SITE))
        return _start([python, "-u", *script, profile_path], home)
    module = "nvflare.app_common.executors.client_api.attach"
    return _start([python, "-u", "-m", module, "--workspace", workspace, "--wait", "120", "--", *script], home)


def _start(command: list, home: str) -> subprocess.Popen:
    with open(os.path.join(home, "log.txt"), "ab") as log:
        return subprocess.Popen(
            command,
            cwd=home,
            env={**os.environ, "BENCH_RUN": home},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _kill_leftovers(home: str) -> int:
    """Ends what the job left behind, whatever session it moved to; returns how many processes that were."""
    deadline = time.monotonic() + LEFTOVER_GRACE
    while _processes_of(home) and time.monotonic() < deadline:
        time.sleep(SAMPLE_INTERVAL)
    leftovers = _processes_of(home)
    for pid in leftovers:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(leftovers)


def _processes_of(home: str) -> list:
    """A process belongs to the run if its environment or its command line names the run's folder."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            seen = _read(f"/proc/{entry}/environ") + _read(f"/proc/{entry}/cmdline")
        except OSError:
            continue
        if home in seen and int(entry) != os.getpid():
            found.append(int(entry))
    return found


def _load_records(directory: str) -> dict:
    records = {"server": [], "cj": [], "trainer": [], "scalars": []}
    for path in glob.glob(os.path.join(directory, "*.jsonl")):
        role, _, pid = os.path.basename(path).partition(".")[0].rpartition("-")
        for line in _read(path).splitlines():
            records[role].append({**json.loads(line), "pid": int(pid)})
    for found in records.values():
        found.sort(key=lambda record: record["time"])
    return records


def _missing_results(spec: Spec, outcome: Outcome) -> Optional[str]:
    errors = [r["text"] for r in outcome.records["server"] if r["event"] == "error"]
    if errors:
        return errors[0]
    results = [r for r in outcome.records["server"] if r["event"] == "result"]
    if len(results) != spec.rounds:
        return f"{len(results)} of {spec.rounds} results reached the server"
    return None


def _pid_of(record_file: str) -> int:
    return int(record_file.rpartition("-")[2].partition(".")[0])


def _pss_mb(pid: int) -> float:
    """Memory of a process in which what it shares counts by its share; 0 once it has ended."""
    try:
        return int(re.search(r"^Pss:\s+(\d+)", _read(f"/proc/{pid}/smaps_rollup"), re.MULTILINE).group(1)) / 1024
    except (OSError, AttributeError):
        return 0.0


def _cpu_clock(pid: int) -> int:
    """The id of another process's CPU clock, see clock_getcpuclockid(3)."""
    return (~pid << 3) | 2


def _read(path: str) -> str:
    with open(path, errors="replace") as f:
        return f.read()


def _write_json(path: str, content: dict):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        json.dump(content, f, indent=2)
