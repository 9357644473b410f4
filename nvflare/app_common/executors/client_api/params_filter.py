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

"""A job's own ParamsConverter component as a filter.

nvflare's in-process executor takes the ids of two ParamsConverter components as arguments: one converts what comes from
the server, the other what goes there. ClientAPIExecutor has no such arguments; a ParamsConverterFilter applies such a
component as the last task-data filter, or the first task-result filter, of the executor's tasks: where, and with what,
the executor did.
"""

import sys
from typing import List, Optional

from nvflare.apis.event_type import EventType
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.params_converter import ParamsConverter
from nvflare.app_common.executors.client_api.backend_spec import TrainerError
from nvflare.app_common.executors.client_api.formats.job_formats import register_tensors
from nvflare.private.privacy_manager import Scope
from nvflare.security.logging import secure_format_exception


class ParamsConverterFilter(Filter):
    def __init__(self, converter_id: str, supported_tasks: Optional[List[str]] = None):
        """Initializes the filter.

        Args:
            converter_id (str): the id of a ParamsConverter component of the job.
            supported_tasks (list, optional): the names of the tasks to convert; None or empty: those of the filter's
                place in the job's config. Either way the component leaves out the tasks that it does not support.

        Raises:
            ValueError: names the argument, its value and what is allowed.
        """
        super().__init__()
        if not isinstance(converter_id, str) or not converter_id:
            raise ValueError(f"converter_id must be the id of a component, but is {converter_id!r}")
        is_list = isinstance(supported_tasks, list) and all(isinstance(task, str) for task in supported_tasks)
        if supported_tasks is not None and not is_list:
            raise ValueError(f"supported_tasks must be a list of task names, but is {supported_tasks!r}")
        self._converter_id = converter_id
        self._supported_tasks = supported_tasks

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.START_RUN:
            try:
                self._find_converter(fl_ctx)
                _expect_tensors()
            except (ValueError, TrainerError) as e:
                self.system_panic(str(e), fl_ctx)

    def _find_converter(self, fl_ctx: FLContext) -> ParamsConverter:
        converter = fl_ctx.get_engine().get_component(self._converter_id)
        if not isinstance(converter, ParamsConverter):
            found = "there is no such component" if converter is None else f"it is a {type(converter)}"
            raise ValueError(f"{self.name}: component {self._converter_id!r} must be a ParamsConverter, but {found}")
        return converter

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Converts the model in a task or in a good result.

        Raises:
            ValueError: the component cannot convert it, and why; the framework fails the task.
            TrainerError: what it has made are tensors, which this Python cannot send; likewise.
        """
        task_name = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        is_in_place = not self._supported_tasks or task_name in self._supported_tasks
        if not is_in_place or shareable.get_return_code() != ReturnCode.OK:
            return shareable  # the executor answered a failed task before it converted
        converter = self._find_converter(fl_ctx)
        try:
            shareable = converter.process(task_name, shareable, fl_ctx)
        except Exception as e:
            # The framework logs the exception that this one comes from, traceback and all.
            what = f"{type(converter).__name__} (component {self._converter_id!r}) cannot convert task {task_name!r}"
            raise ValueError(f"{what}: {secure_format_exception(e)}") from e
        _expect_tensors()
        return shareable


def converts_results(fl_ctx: FLContext) -> bool:
    """Whether a ParamsConverterFilter of the job converts results before they are sent."""
    chains = getattr(fl_ctx.get_prop(FLContextKey.RUNNER), Scope.TASK_RESULT_FILTERS_NAME, None)
    if not isinstance(chains, dict):
        return False  # the runner of a unit test has none
    return any(isinstance(one, ParamsConverterFilter) for chain in chains.values() for one in chain)


def _expect_tensors() -> None:
    # A component that converts to tensors, or from them, has imported torch; what the script sends are then tensors.
    if "torch" in sys.modules:
        register_tensors()
