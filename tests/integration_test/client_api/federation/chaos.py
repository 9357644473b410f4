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

"""Faults in a running federation: what is done to which process or link in which phase of a job, and what came of it.

The cases, with the outcome that is expected of each, are the table in docs/design/chaos.md. Each case runs a job of two
sites; the fault happens at site-1 or at the server, while site-1's trainer is held in the phase. Cases that their job
survives share one, a round each.
"""

import re
import threading
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGCONT
from typing import Callable, Dict, List, Optional

from nvflare.fuel.flare_api.api_spec import JobTimeout
from tests.integration_test.client_api.federation import jobs
from tests.integration_test.client_api.federation.federation import Federation
from tests.integration_test.client_api.federation.jobs import Stage
from tests.integration_test.client_api.poc_federation import SERVER, PocJob
from tests.unit_test.app_common.executors.job_harness import PROJECT

TABLE = PROJECT / "docs" / "design" / "chaos.md"
VICTIM, OTHER = "site-1", "site-2"
GOES_ON, FAILS, ABORTED, WAITS, FORGOTTEN = "goes on", "fails", "aborted", "waits", "forgotten"
STATUS = {
    "FINISHED:COMPLETED": GOES_ON,
    "FINISHED:EXECUTION_EXCEPTION": FAILS,
    "FINISHED:ABORTED": ABORTED,
}
PAUSE = 2.0  # seconds that a stop or a cut lasts
# Seconds from the fault to the end of the job, or to the administrator's patience.
JOB_LIMIT = 90.0
PATIENCE = 30.0
HEARTBEAT = {"heartbeat_interval": 1.0, "heartbeat_timeout": 10.0}
PARTS = {"server": SERVER, "SJ": SERVER}  # whose process it is; all others are the victim's


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    part: str
    phase: str
    fault: str
    mode: str
    expected: str
    cause: str  # a regular expression for what the admin finds; of cases that do not go on
    half: str  # "quick": part of `make test`, too

    @property
    def is_attached(self) -> bool:
        return self.mode.startswith("attach")

    @property
    def name(self) -> str:
        return f"{self.part} {self.phase} {self.fault} {self.mode}"

    @property
    def shares_job(self) -> bool:
        """Whether a job of several rounds serves this case among others."""
        return self.expected == GOES_ON and self.phase in ROUND_PHASES


@dataclass
class Outcome:
    """What came of a case."""

    case: Case
    observed: str
    seconds: float
    evidence: str = ""
    problems: List[str] = field(default_factory=list)

    def record(self) -> dict:
        return {**asdict(self.case), **{name: value for name, value in vars(self).items() if name != "case"}}


def load_cases(path: Path = TABLE) -> List[Case]:
    """Reads the cases from the first table of a document that has their columns."""
    names = list(Case.__dataclass_fields__)
    lines = path.read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")] for line in lines]
    start = rows.index(names) + 2
    cases = []
    for row in rows[start:]:
        if len(row) != len(names):
            break
        cases.append(Case(*(cell.strip("`") for cell in row)))
    return cases


# Faults: each begins while the trainer is held, and ends after a pause, when the trainer may go on.


@dataclass(frozen=True)
class Fault:
    begin: Callable[[Federation, str, str, str], None]  # federation, part, owner, job's id
    end: Callable[[Federation, str, str, str], None] = lambda *_: None
    pause: float = 0.0


def _kill(federation, part, owner, job_id):
    federation.kill(part, owner, job_id)


def _resume(federation, part, owner, job_id):
    for stopped in federation.parts(part, owner, job_id):  # none is left of a guard that its job has woken to end
        stopped.send(SIGCONT)


def _kill_and_start(federation, part, owner, job_id):
    if part == "trainer":
        federation.kill(part, owner, job_id)
        federation.attach_again(owner)
    else:
        federation.restart(owner)


FAULTS: Dict[str, Fault] = {
    "kill": Fault(_kill),
    "stop": Fault(Federation.stop, _resume, PAUSE),
    "cut": Fault(lambda f, part, owner, job: f.cut(owner), lambda f, part, owner, job: f.heal(owner), PAUSE),
    "restart": Fault(_kill_and_start),
}
# Processes that work for no job in particular; nor does a trainer that its user has started, as far as one can see.
JOBLESS = ("CP", "server", "network")

# Phases: whose trainer is held where, and what the victim's trainer has then reached.
ROUND_PHASES = {
    "idle": ("other", "training", "sent"),
    "receiving": ("victim", "receiving", "receiving"),
    "training": ("victim", "training", "training"),
    "sending": ("victim", "sending", "sending"),
    "sent": ("victim", "sent", "sent"),
}
JOB_PHASES = {
    "launching": ("victim", "launching", "launching"),
    "ending": ("victim", "ending", "ending"),
}
PHASES = {**ROUND_PHASES, **JOB_PHASES}


def set_off(
    federation: Federation, stage: Stage, job_id: str, case: Case, number: int, victim: str = VICTIM, other: str = OTHER
) -> None:
    """Has the fault of a case happen to a victim in the case's phase of a round."""
    whom, held, reached = PHASES[case.phase]
    holder = {"victim": victim, "other": other}[whom]
    gate = stage.hold(holder, held, number)
    stage.wait_for(holder, held, number)
    stage.wait_for(victim, reached, number)
    is_jobless = case.part in JOBLESS or case.part == "trainer" and case.is_attached
    target = (federation, case.part, PARTS.get(case.part, victim), "" if is_jobless else job_id)
    fault = FAULTS[case.fault]
    fault.begin(*target)
    try:
        stage.release(gate)
        threading.Event().wait(fault.pause)
    finally:
        fault.end(*target)


class Chaos:
    """Runs cases in a federation."""

    def __init__(self, federation: Federation):
        self._federation = federation
        self._jobs = 0

    def run(self, cases: List[Case]) -> List[Outcome]:
        """Runs cases that expect the same kind of job: one that they share, or a single one."""
        return self._run_shared(cases) if cases[0].shares_job else [self._run_single(case) for case in cases]

    def _run_single(self, case: Case) -> Outcome:
        started = time.monotonic()
        try:
            # Who has done its part of the round, or nearly, must be wanted in another one.
            rounds = 2 if case.phase in ("idle", "sending", "sent") else 1
            with _Run(self._federation, self._name(), case.mode, rounds) as run:
                run.set_off(case, 0)
                run.finish(PATIENCE if case.expected in (WAITS, FORGOTTEN) else JOB_LIMIT)
            return self._judge(case, run, started)
        except Exception as e:  # whatever it is, it is this case's failure, and the others are to be run
            problem = "".join(traceback.format_exception(e))
            return Outcome(case, "error", time.monotonic() - started, problems=[problem])
        finally:
            self._federation.repair()

    def _run_shared(self, cases: List[Case]) -> List[Outcome]:
        """One job, with a round for each case; the one that ends it leaves the rest to another job."""
        outcomes = []
        started = time.monotonic()
        with _Run(self._federation, self._name(), cases[0].mode, rounds=len(cases)) as run:
            for number, case in enumerate(cases):
                case_started = time.monotonic()
                try:
                    run.set_off(case, number)
                    run.wait_round(number)
                except AssertionError as e:
                    outcomes.append(Outcome(case, "stuck", time.monotonic() - case_started, problems=[str(e)]))
                    break
                outcomes.append(Outcome(case, GOES_ON, time.monotonic() - case_started))
            run.finish(JOB_LIMIT if outcomes[-1].observed == GOES_ON else PATIENCE)
        if len(outcomes) == len(cases) and outcomes[-1].observed == GOES_ON:
            last = self._judge(cases[-1], run, started)
            outcomes[-1].observed, outcomes[-1].problems = last.observed, last.problems
        else:
            outcomes[-1].evidence = run.evidence()
        rest = cases[len(outcomes) :]
        return outcomes + (self._run_shared(rest) if rest else [])

    def _name(self) -> str:
        self._jobs += 1
        return f"chaos-{self._jobs}"

    @staticmethod
    def _judge(case: Case, run: "_Run", started: float) -> Outcome:
        observed = STATUS.get(run.status, run.status)
        evidence = "" if observed == GOES_ON else run.evidence()
        problems = run.problems()
        if observed != case.expected:
            problems.append(f"the job {observed}, but {case.expected} was expected")
        if case.cause and not re.search(case.cause, evidence):
            problems.append(f"the admin does not find {case.cause!r}")
        found = re.search(f".*{case.cause}.*", evidence) if case.cause else None
        return Outcome(
            case, observed, time.monotonic() - started, found.group() if found else evidence[-2000:], problems
        )


class _Run:
    """One job, from its submission to what it has left."""

    def __init__(self, federation: Federation, name: str, mode: str, rounds: int):
        self._federation = federation
        self._rounds = rounds
        self.stage = Stage(federation.root / name)
        mode, _, option = mode.partition(", ")
        arguments = HEARTBEAT if mode != "in_process" else {}
        executors = {
            VICTIM: jobs.executor(mode, self.stage.folder, **arguments, **({option: True} if option else {})),
            OTHER: jobs.executor("in_process", self.stage.folder),
        }
        self._mode = mode
        self._job = jobs.make_job(name, executors, rounds=rounds, size=jobs.LARGE)
        self.status = ""
        self._poc_job: Optional[PocJob] = None
        self._logs: Dict[str, str] = {}

    def __enter__(self) -> "_Run":
        self._poc_job = self._federation.submit(self._job)
        if self._mode == "attach":
            self._federation.attach(VICTIM, jobs.TRAINER, str(self.stage.folder))
        return self

    def __exit__(self, *exc_info) -> None:
        self.stage.close()

    def set_off(self, case: Case, number: int) -> None:
        set_off(self._federation, self.stage, self._poc_job.job_id, case, number)

    def wait_round(self, number: int) -> None:
        """Waits until both sites have sent their results of a round, and all have been taken."""
        for site in (VICTIM, OTHER):
            self.stage.wait_for(site, "sent", number)

    def finish(self, limit: float = JOB_LIMIT) -> None:
        """Waits (seconds) for the end of the job; one that has not ended by then is aborted: its status is WAITS."""
        with self._federation.session() as session:
            try:
                self._poc_job.finish(session, limit)
                self.status = self._poc_job.status
            except JobTimeout:
                self.status = self._abort(session)
            self._logs = self._federation.console(session, self._poc_job.job_id)

    def _abort(self, session) -> str:
        if not self._federation.abort(session, self._poc_job.job_id):
            self._poc_job.look_for_leftovers()
            return FORGOTTEN
        self._poc_job.finish(session, JOB_LIMIT)
        return WAITS

    def evidence(self) -> str:
        """What an admin finds without leaving the console."""
        return "\n".join(f"[{name}]\n{text}" for name, text in self._logs.items())

    def problems(self) -> List[str]:
        """What must never be, whatever the outcome."""
        job_id, server_dir = self._poc_job.job_id, self._poc_job.server_dir
        found = [f"left process: {part}" for part in self._poc_job.left_processes]
        left = self._federation.inventory().of_job(job_id)
        found += [f"left credential: {credential}" for credential in left.credentials]
        found += [f"left file: {path}" for path in left.client_api_files]
        if not server_dir:
            return found
        found += [f"wrong result: {violation}" for violation in jobs.violations(server_dir)]
        accepted = jobs.accepted(server_dir)
        if len(accepted) != len(set(accepted)):
            found.append(f"a result counted twice: {accepted}")
        if STATUS.get(self.status) == GOES_ON:
            if accepted != [(number, site) for number in range(self._rounds) for site in (VICTIM, OTHER)]:
                found.append(f"not every result counted once: {accepted}")
            elif not (jobs.trained_model(server_dir) == self._rounds).all():
                found.append("the model is wrong")
        return found
