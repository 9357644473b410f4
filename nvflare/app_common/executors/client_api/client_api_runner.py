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

"""A training script and the executor that runs it, as one object for nvflare's Job API.

What ScriptRunner is to nvflare's executors, ClientAPIRunner is to ClientAPIExecutor:

    job.to(ClientAPIRunner(script="train.py", framework=FrameworkType.NUMPY), "site-1", tasks=["train"])

and in a recipe, which has made its runner already:

    ClientAPIRunner(script="train.py", framework=FrameworkType.NUMPY).replace_in(recipe)
"""

import inspect
import os
import shlex
from typing import Optional

from nvflare.app_common.executors.client_api.arguments import RULES, ExecutionMode, check_arguments
from nvflare.app_common.executors.client_api.formats.job_formats import (
    PARAMS_EXCHANGE_FORMAT,
    PARAMS_TRANSFER_TYPE,
    SERVER_EXPECTED_FORMAT,
    checked_formats,
    value_of,
)
from nvflare.app_common.executors.client_api.migration.advice import unknown_argument
from nvflare.app_common.executors.client_api.migration.script_runner import REPLACED, take_out_runners
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.client.config import ExchangeFormat, TransferType
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.api import FedJob, JobCtx
from nvflare.job_config.defs import JobTargetType
from nvflare.job_config.fed_app_config import ClientAppConfig

DEFAULT_COMMAND = "python3 -u"
# What a script of each framework sees.
_FORMATS = {
    FrameworkType.NUMPY: ExchangeFormat.NUMPY,
    FrameworkType.PYTORCH: ExchangeFormat.PYTORCH,
    FrameworkType.TENSORFLOW: ExchangeFormat.KERAS_LAYER_WEIGHTS,
    FrameworkType.RAW: ExchangeFormat.RAW,
}

# As nvflare's in-process executors for them: the script is asked for metrics, which its Lightning callback sends only
# then; none are required.
_EVALUATING = (FrameworkType.PYTORCH, FrameworkType.TENSORFLOW)

# What the runner says itself, and what is no name of an argument.
_NOT_TO_BE_GIVEN = {"task_script_path", "task_script_args", "self", "executor_args"}


class ClientAPIRunner:
    def __init__(
        self,
        script: Optional[str] = None,
        script_args: str = "",
        execution_mode: str = ExecutionMode.IN_PROCESS,
        command: Optional[str] = None,
        framework: FrameworkType = FrameworkType.PYTORCH,
        server_expected_format: ExchangeFormat = ExchangeFormat.NUMPY,
        params_transfer_type: TransferType = TransferType.FULL,
        **executor_args,
    ):
        """Initializes the runner and checks its arguments.

        Args:
            script (str or Path): in_process, external_process: the script. One with a relative path, which counts from
                the current directory, gets to the same place in the app's custom folder, and so do the modules that it
                imports from there. One from elsewhere gets there by its file name, alone. An absolute path that does
                not exist here is taken for one of the sites.
            script_args (str): the script's arguments, split like a shell command.
            execution_mode (str): "in_process", "external_process" or "attach".
            command (str): external_process: the words before the script, such as "torchrun --nproc_per_node=2". Unset,
                it is "python3 -u".
            framework (FrameworkType): whose parameters the script sees: the job's `params_exchange_format`.
            server_expected_format (ExchangeFormat): the format of the server's parameters.
            params_transfer_type (TransferType): FULL, or DIFF: the script sends a full model, the difference travels.
            **executor_args: any other argument of ClientAPIExecutor, such as launch_once or result_wait_timeout.
                Unset, train_with_evaluation is true for PyTorch and TensorFlow, or what the runner has in whose place
                this one comes; no metrics are required by that.

        Raises:
            ValueError: names the argument, its value and what is allowed.
            TypeError: names an argument that there is not, and what takes its place.
        """
        _check_names(execution_mode, executor_args)
        command = _checked_command(command, execution_mode)
        self._client_config = _checked_formats(framework, server_expected_format, params_transfer_type)
        self._script = _checked_script(script, execution_mode)
        own_args = self._script_arguments(script_args, execution_mode, command)
        self._defaults = {"train_with_evaluation": framework in _EVALUATING}
        for name in own_args.keys() & executor_args.keys():
            raise ValueError(f"{name} is not to be set: script and script_args say it")
        self._executor_args = {"execution_mode": execution_mode, **own_args, **executor_args}
        ClientAPIExecutor(**self._executor_args)  # finds what is wrong now, not when the job is built

    def _script_arguments(self, script_args: str, execution_mode: str, command: Optional[str]) -> dict:
        try:  # here, because the executor would name an argument of its own
            RULES["task_script_args"].check(script_args)
        except ValueError as e:
            raise ValueError(f"script_args must be {e}, but is {script_args!r}") from None
        if execution_mode == ExecutionMode.IN_PROCESS:
            return {"task_script_path": self._script_at_site(), "task_script_args": script_args}
        if execution_mode == ExecutionMode.EXTERNAL_PROCESS:
            path = os.path.join("custom", self._script_at_site())  # which stays as it is if it is absolute
            return {"command": f"{command} {shlex.quote(path)} {script_args}".strip()}
        if script_args:
            raise ValueError(f"script_args have no meaning in execution_mode {execution_mode}, but are {script_args!r}")
        return {}

    def _is_shipped(self) -> bool:
        return os.path.isfile(self._script)

    def _script_at_site(self) -> str:
        """The script's path in the app's custom folder, or an absolute one."""
        return os.path.basename(self._script) if os.path.isabs(self._script) and self._is_shipped() else self._script

    @staticmethod
    def get_job_target_type() -> str:
        return JobTargetType.CLIENT

    def add_to_fed_job(self, job: FedJob, ctx, **kwargs):
        """Adds executor, script and formats to a site of the job; called by `job.to(runner, site, tasks=[...])`.

        Returns:
            the ids of the components that it has added, as ScriptRunner does: there are none.

        Raises:
            ValueError: the site already has other formats, or a runner in the same execution mode.
        """
        job.check_kwargs(args_to_check=kwargs, args_expected={"tasks": False})
        self._add(job, ctx, kwargs.get("tasks", ["*"]), self._defaults)
        return {}

    def _add(self, job: FedJob, ctx, tasks: list, defaults: dict) -> None:
        # FedJob has no other way to look at what a site has.
        self._check_site(job._get_app(ctx).get_app_config(), ctx.target)
        job.add_params(dict(self._client_config), ctx)
        job.add_executor(ClientAPIExecutor(**{**defaults, **self._executor_args}), tasks=tasks, ctx=ctx)
        if self._script and self._is_shipped():
            if os.path.isabs(self._script):
                job.add_file_source(self._script, None, None, ctx)
            else:
                job.add_resources([self._script], ctx)

    def replace_in(self, recipe, *sites: str) -> None:
        """Takes the place of the runner that a recipe or a job has made, with its tasks.

        Args:
            recipe (Recipe or FedJob): that has nvflare's ScriptRunner, or an executor as that makes them.
            sites: where; if there are none, wherever the recipe has one.

        Raises:
            TypeError: this is no recipe and no job, or a site is no string.
            ValueError: there is no such runner, or more than one, or other formats than the server is made for.
        """
        job = recipe if isinstance(recipe, FedJob) else getattr(recipe, "job", None)
        if not isinstance(job, FedJob):
            raise TypeError(f"recipe must be a Recipe or a FedJob, but is {recipe!r}")
        for name, before in take_out_runners(job, sites, self._client_config).items():
            # A Lightning script that never validates fails where metrics are asked for.
            asked = {"train_with_evaluation": before.train_with_evaluation}
            self._add(job, JobCtx(self, name, ""), before.tasks, asked)

    def _check_site(self, site: ClientAppConfig, name: str) -> None:
        # One client config serves all executors of a site, and what trainers of one mode connect by is one place.
        for key, value in self._client_config.items():
            present = site.additional_params.get(key, value)
            if present != value:
                raise ValueError(f"{name} already has {key} {present!r}, and this runner needs {value!r}")
        mode = self._executor_args["execution_mode"]
        executors = [entry.executor for entry in site.executors]
        if any(isinstance(other, ClientAPIExecutor) and other._execution_mode == mode for other in executors):
            raise ValueError(f"{name} already has a runner in execution_mode {mode}: give that one all tasks")


def _check_names(execution_mode, executor_args: dict) -> None:
    if isinstance(execution_mode, bool):  # the place of launch_external_process
        raise TypeError(f'ClientAPIRunner: execution_mode is "in_process" or "external_process", not {execution_mode}')
    known = inspect.signature(ClientAPIExecutor.__init__).parameters
    for name in executor_args.keys() - known.keys():
        if name in REPLACED:
            raise TypeError(f"ClientAPIRunner has no argument {name}: instead of it, {REPLACED[name]}")
        names = {*inspect.signature(ClientAPIRunner.__init__).parameters, *known} - _NOT_TO_BE_GIVEN
        raise TypeError(f"{name} is {unknown_argument('ClientAPIRunner', name, names).partition(', and migrate')[0]}")


def _checked_command(command, execution_mode) -> Optional[str]:
    """The words before the script, checked as the executor does, before they are put into a longer command."""
    is_unset = command is None or (isinstance(command, str) and not command.strip())
    if is_unset and execution_mode == ExecutionMode.EXTERNAL_PROCESS:
        return DEFAULT_COMMAND
    defaults = {name: rule.default for name, rule in RULES.items()}
    return check_arguments(execution_mode, {**defaults, "command": command})["command"]


def _checked_formats(framework, server_expected_format, params_transfer_type) -> dict:
    framework = value_of("framework", framework, FrameworkType)
    return checked_formats(
        {
            PARAMS_EXCHANGE_FORMAT: _FORMATS[framework],
            SERVER_EXPECTED_FORMAT: server_expected_format,
            PARAMS_TRANSFER_TYPE: params_transfer_type,
        },
        f"framework {framework}",
    )


def _checked_script(script, execution_mode: str) -> Optional[str]:
    script = os.fspath(script) if isinstance(script, os.PathLike) else script
    if execution_mode == ExecutionMode.ATTACH:
        if script:
            raise ValueError(f"script has no meaning in execution_mode attach, but is {script!r}: its owner starts it")
        return None
    if not isinstance(script, str) or not script.strip():
        raise ValueError(f"script must be the path of a script in execution_mode {execution_mode}, but is {script!r}")
    if not os.path.isabs(script) and not os.path.isfile(script):
        raise ValueError(f"script {script!r} is not a file in {os.getcwd()}")
    path = os.path.normpath(script)
    return os.path.abspath(path) if path.startswith(os.pardir) else path
