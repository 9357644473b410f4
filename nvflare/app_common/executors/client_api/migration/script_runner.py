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

"""From nvflare's ScriptRunner, in a recipe or a job, to ClientAPIRunner: its arguments, and its place in a job."""

from typing import Dict, Iterable, NamedTuple

from nvflare.apis.job_def import ALL_SITES
from nvflare.app_common.executors.client_api.formats.job_formats import PARAMS_EXCHANGE_FORMAT
from nvflare.app_common.executors.client_api.script.trainer_api import unsubscribe_all
from nvflare.app_common.executors.client_api_launcher_executor import ClientAPILauncherExecutor
from nvflare.app_common.executors.in_process_client_api_executor import InProcessClientAPIExecutor
from nvflare.app_common.widgets.external_configurator import ExternalConfigurator
from nvflare.app_common.widgets.metric_relay import MetricRelay
from nvflare.job_config.api import FedJob
from nvflare.job_config.fed_app_config import ClientAppConfig

_LEGACY_EXECUTORS = (ClientAPILauncherExecutor, InProcessClientAPIExecutor)
_OWN_PIPE = 'the executor has its own way to the script; in execution_mode "attach" a component client_api_pipe'
# What nvflare's ScriptRunner and BaseScriptRunner take, and what takes its place.
REPLACED = {
    "launch_external_process": 'execution_mode="external_process"',
    "pipe_connect_type": _OWN_PIPE,
    "task_pipe": _OWN_PIPE,
    "metric_pipe": "what the script logs travels with the tasks",
    "metric_relay": "what the script logs travels with the tasks",
    "launcher": 'command; in execution_mode "attach" a component client_api_launcher',
    "executor": "this runner makes a ClientAPIExecutor: any argument of it by its name",
    "external_pre_init_timeout": "launch_timeout",
    "params_exchange_format": "framework",
}


class TakenOut(NamedTuple):
    """What an executor of ScriptRunner's was asked for."""

    tasks: list
    train_with_evaluation: bool


def take_out_runners(job: FedJob, sites: Iterable[str], formats: dict) -> Dict[str, TakenOut]:
    """Removes the executors that ScriptRunner has made in a job, and the components that it has made for them.

    Args:
        job: that a recipe, or somebody by hand, has made.
        sites: where; if there are none, wherever the job has one.
        formats: keys of the job's client config, which have to be the same: the server's components are made for them.

    Returns:
        What was taken out, by site.

    Raises:
        TypeError: a site is no string.
        ValueError: there is no such executor, or more than one, or other formats; nothing is removed.
    """
    for site in sites:
        if not isinstance(site, str):
            raise TypeError(f"sites must be names, each an argument of its own, but one is {site!r}")
    # As nvflare's Recipe: FedJob has no other way to look at what its sites have.
    apps = {name: app.get_app_config() for name, app in job._deploy_map.items()}
    targets = [name for name, app in apps.items() if isinstance(app, ClientAppConfig)]
    found = {name: _runners(apps[name]) for name in targets if name in sites or not sites}
    found = {name: runners for name, runners in found.items() if runners}
    missing = set(sites) - found.keys()
    if missing or not found:
        fault = f"no runner of nvflare's to replace at {', '.join(sorted(missing)) or 'any site'}: {targets}"
        if sites and ALL_SITES in targets:
            fault += "; name no site to replace the one of all, or have the recipe make one for each (per_site_config)"
        raise ValueError(fault)
    for name, runners in found.items():
        if len(runners) > 1:
            raise ValueError(f"{name} has {len(runners)} runners of nvflare's: give one of them all tasks")
        _check_formats(runners[0].executor, formats, name)
    for name, (runner,) in found.items():
        _take_out(apps[name], runner)
    return {name: TakenOut(runner.tasks, runner.executor._train_with_evaluation) for name, (runner,) in found.items()}


def _runners(site: ClientAppConfig) -> list:
    return [entry for entry in site.executors if isinstance(entry.executor, _LEGACY_EXECUTORS)]


def _check_formats(executor, formats: dict, name: str) -> None:
    for key, value in formats.items():
        before = getattr(executor, f"_{key}")
        before = getattr(before, "value", before)
        if before != value:
            argument = "framework" if key == PARAMS_EXCHANGE_FORMAT else key
            raise ValueError(
                f"the runner of {name} has {key} {before!r}, and this one {value!r}: give it the same {argument}"
            )


def _take_out(site: ClientAppConfig, runner) -> None:
    site.executors.remove(runner)
    if isinstance(runner.executor, InProcessClientAPIExecutor):
        unsubscribe_all(runner.executor)  # its constructor has subscribed to what the scripts of this process say
        return
    relays = [c for c in site.components.values() if isinstance(c, MetricRelay)]
    ids = {runner.executor.pipe_id, runner.executor._launcher_id, *(relay.pipe_id for relay in relays)}
    for component_id, component in list(site.components.items()):
        if component_id in ids or isinstance(component, (MetricRelay, ExternalConfigurator)):
            del site.components[component_id]
            site.handlers[:] = [handler for handler in site.handlers if handler is not component]
