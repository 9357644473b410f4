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

"""What a script logs reaches components by events: who hears of it before the migration, and who afterwards.

A receiver takes local events at a site, and federated ones at the server; a federated event that passes it at the site
has no origin yet, and it takes none of those.
"""

from typing import NamedTuple, Set

from nvflare.app_common.executors.client_api.migration.job import LegacyJob, component_place
from nvflare.app_common.executors.client_api.migration.knobs import IN_PROCESS, LAUNCHER, NOTE
from nvflare.app_common.executors.client_api.migration.parts import class_path, is_disabled, is_part

ANALYTICS = "analytix_log_stats"
FED_ANALYTICS = "fed." + ANALYTICS
# nvflare's receivers, and what they listen to if nothing else is said.
_RECEIVERS = {
    "TBAnalyticsReceiver": {ANALYTICS, FED_ANALYTICS},
    "WandBReceiver": {ANALYTICS, FED_ANALYTICS},
    "MLflowReceiver": {FED_ANALYTICS},
}


class Events(NamedTuple):
    """The names by which log records are to be had."""

    at_site: Set[str]
    at_server: Set[str]


def plan_events(job: LegacyJob, modes: Set[str]) -> None:
    """Refuses a job in which a receiver would not get what it got, and one whose records would leave the site now."""
    before, after = _before(job, modes), _after(job, modes)
    _check_relays(job)
    if before.at_site and not before.at_server and after.at_server:
        advice = "what the script logs would leave the site now: remove this, or add a ConvertToFedEvent"
        for relay_id in _relays(job):
            job.refuse(component_place(relay_id), "fed_event", False, advice)
    instead = _names(after.at_site) or "no event that a receiver takes (nvflare 2.9 fires the federated one only)"
    for receiver_id, config in job.active.items():
        if _is_lost(config, before.at_site, after.at_site):
            advice = f"at the site the executor fires {instead}: have it listen to that, or remove it"
            job.refuse(component_place(receiver_id), "events", sorted(_heard_by(config)), advice)
    lost = before.at_server - after.at_server
    if not lost:
        return
    for server in job.surroundings.servers:
        for config in server.data.get("components") or ():
            if (
                isinstance(config, dict)
                and not is_disabled(config)
                and _is_lost(config, before.at_server, after.at_server)
            ):
                advice = f"the server gets {_names(after.at_server)} now: in {server.name}, add that to its events"
                job.refuse(component_place(config.get("id")), "events", sorted(_heard_by(config)), advice)
    why = f"the server gets {_names(after.at_server)} now, not {_names(lost)}: what listens to that alone has to change"
    job.report("events", "", None, NOTE, "", why)


def _names(events: Set[str]) -> str:
    return " and ".join(sorted(events))


def _relays(job: LegacyJob) -> list:
    return [relay_id for relay_id, config in job.active.items() if is_part(config, "MetricRelay")]


def _check_relays(job: LegacyJob) -> None:
    for relay_id in _relays(job):
        event_type = job.components[relay_id]["args"].get("event_type", ANALYTICS)
        if event_type not in (ANALYTICS, FED_ANALYTICS):
            advice = (
                f"the executor sends {FED_ANALYTICS} (and {ANALYTICS} at the site): have the components that listen to "
                "this name listen to that, and remove this"
            )
            job.refuse(component_place(relay_id), "event_type", event_type, advice)


def _before(job: LegacyJob, modes: Set[str]) -> Events:
    local, federated = set(), set()
    if IN_PROCESS in modes:
        local.add(ANALYTICS)
    for relay_id in _relays(job) if LAUNCHER in modes else ():
        arguments = job.components[relay_id]["args"]
        names = federated if arguments.get("fed_event", True) else local
        names.add(str(arguments.get("event_type", ANALYTICS)))
    return Events(local, federated | _converted(job, local))


def _after(job: LegacyJob, modes: Set[str]) -> Events:
    converted = _converted(job, {ANALYTICS})
    local, federated = set(), set()
    if IN_PROCESS in modes or job.target == "2.8":
        local.add(ANALYTICS)
        federated |= converted
    if LAUNCHER in modes and (job.target == "2.9" or not converted):
        federated.add(FED_ANALYTICS)
    return Events(local, federated)


def _converted(job: LegacyJob, names: Set[str]) -> Set[str]:
    """The federated events that the job's ConvertToFedEvent components make of local ones."""
    found = set()
    for config in job.active.values():
        if is_part(config, "ConvertToFedEvent"):
            converts = config["args"].get("events_to_convert")
            prefix = config["args"].get("fed_event_prefix", "fed.")
            found |= {f"{prefix}{name}" for name in names if isinstance(converts, list) and name in converts}
    return found


def _heard_by(config: dict) -> Set[str]:
    """The events that a component listens to, as far as its config tells."""
    arguments = config.get("args")
    events = arguments.get("events") if isinstance(arguments, dict) else None
    if isinstance(events, list):
        return {event for event in events if isinstance(event, str)}
    return _RECEIVERS.get(class_path(config).rpartition(".")[2], set())


def _is_lost(config: dict, before: Set[str], after: Set[str]) -> bool:
    heard = _heard_by(config)
    return bool(heard & before) and not heard & after
