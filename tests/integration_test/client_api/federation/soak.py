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

"""Many rounds with faults at random: nothing grows, nothing is lost, nothing counts twice.

Three sites, each in another mode. Every few rounds one of them meets a fault that its job survives, chosen by a seed
that the record tells. After each round the processes are measured.
"""

import random
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Dict, List

from tests.integration_test.client_api.federation import jobs
from tests.integration_test.client_api.federation.chaos import GOES_ON, HEARTBEAT, ROUND_PHASES, Case, set_off
from tests.integration_test.client_api.federation.federation import Federation
from tests.integration_test.client_api.federation.jobs import SMALL, Stage
from tests.integration_test.client_api.federation.parts import memory_use
from tests.integration_test.client_api.poc_federation import PocJob

MODES = {"site-1": "external_process", "site-2": "in_process", "site-3": "attach"}
FAULT_EVERY = 3  # rounds
# (part, phase, fault) that a job survives, by mode.
SURVIVED = {
    "external_process": [
        ("trainer", "idle", "kill"),
        ("trainer", "training", "stop"),
        ("guard", "idle", "kill"),
        ("guard", "training", "stop"),
        ("CJ", "idle", "stop"),
        ("CP", "training", "stop"),
        ("network", "idle", "cut"),
        ("network", "training", "cut"),
    ],
    "in_process": [("CJ", "training", "stop"), ("CP", "idle", "stop"), ("network", "training", "cut")],
    "attach": [("trainer", "training", "stop"), ("CJ", "idle", "stop"), ("network", "idle", "cut")],
}
MEASURED = ("CJ", "CP", "trainer", "server", "SJ")
ROUND_TIMEOUT = 120.0  # seconds
END_TIMEOUT = 120.0
# The part of the run that is looked at for growth begins after this share of it, when all caches are warm.
WARM = 0.3


@dataclass
class Soak:
    """What a soak has found."""

    seed: int
    rounds: int
    seconds: float = 0.0
    faults: List[str] = field(default_factory=list)
    samples: List[dict] = field(default_factory=list)
    status: str = ""
    accepted: List[tuple] = field(default_factory=list)
    violations: List[dict] = field(default_factory=list)
    scalars: Dict[str, list] = field(default_factory=dict)
    left: List[str] = field(default_factory=list)

    def expected(self) -> List[tuple]:
        return [(number, site) for number in range(self.rounds) for site in MODES]

    def growth(self, key: str) -> Dict[str, float]:
        """By process: the median of the last third of its warm samples less that of the first third."""
        series: Dict[str, list] = {}
        for sample in self.samples:
            if sample["round"] >= WARM * self.rounds:
                series.setdefault(sample["process"], []).append(sample[key])
        found = {}
        for name, values in series.items():
            third = max(1, len(values) // 3)
            found[name] = median(values[-third:]) - median(values[:third])
        return found

    def record(self) -> dict:
        lost = len(self.expected()) - len(set(self.accepted))
        return {
            "seed": self.seed,
            "rounds": self.rounds,
            "seconds": round(self.seconds),
            "status": self.status,
            "results that count": len(self.accepted),
            "results lost": lost,
            "results doubled": len(self.accepted) - len(set(self.accepted)),
            "wrong results": len(self.violations),
            "metrics": {site: len(steps) for site, steps in self.scalars.items()},
            "faults": "; ".join(self.faults),
            "samples": self.samples,
        }


def soak(federation: Federation, rounds: int, seed: int) -> Soak:
    """Runs a job of so many rounds in a federation of three sites."""
    found, chance, started = Soak(seed, rounds), random.Random(seed), time.monotonic()
    stage = Stage(federation.root / "soak")
    arguments = {site: HEARTBEAT if mode != "in_process" else {} for site, mode in MODES.items()}
    executors = {site: jobs.executor(mode, stage.folder, **arguments[site]) for site, mode in MODES.items()}
    try:
        job = federation.submit(jobs.make_job("soak", executors, rounds, SMALL))
        for site, mode in MODES.items():
            if mode == "attach":
                federation.attach(site, jobs.TRAINER, str(stage.folder))
        for number in range(rounds):
            if number % FAULT_EVERY == 1:
                found.faults.append(_random_fault(federation, stage, job, number, chance))
            for site in MODES:
                stage.wait_for(site, "sent", number, ROUND_TIMEOUT)
            found.samples += _measure(federation, job, number)
        with federation.session() as session:
            job.finish(session, END_TIMEOUT)
    finally:
        stage.close()
    found.seconds = time.monotonic() - started
    found.status, found.left = job.status, job.left_processes
    found.accepted, found.violations = jobs.accepted(job.server_dir), jobs.violations(job.server_dir)
    found.scalars = {site: jobs.scalars(job.server_dir, site) for site in MODES}
    return found


def _random_fault(federation: Federation, stage: Stage, job: PocJob, number: int, chance: random.Random) -> str:
    victim = chance.choice(sorted(MODES))
    part, phase, fault = chance.choice(SURVIVED[MODES[victim]])
    other = chance.choice(sorted(set(MODES) - {victim}))
    assert phase in ROUND_PHASES
    case = Case(part, phase, fault, MODES[victim], GOES_ON, "", "full")
    set_off(federation, stage, job.job_id, case, number, victim, other)
    return f"round {number}: {victim} {part} {phase} {fault}"


def _measure(federation: Federation, job: PocJob, number: int) -> List[dict]:
    samples = []
    for part in federation.parts():
        use = memory_use(part) if part.role in MEASURED and part.job_id in ("", job.job_id) else None
        if use:
            samples.append({"process": f"{part.owner} {part.role}", "round": number, **use})
    return samples
