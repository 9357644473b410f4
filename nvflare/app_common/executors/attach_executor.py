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
"""AttachExecutor: the executor that a site may allow to jobs without code of their own."""

from typing import Optional

from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.client_api.arguments import ExecutionMode
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor


class AttachExecutor(ClientAPIExecutor):
    def __init__(
        self,
        heartbeat_interval: float = 5.0,
        heartbeat_timeout: float = 30.0,
        task_wait_timeout: Optional[float] = None,
        result_wait_timeout: Optional[float] = None,
        train_task_name: str = AppConstants.TASK_TRAIN,
        evaluate_task_name: str = AppConstants.TASK_VALIDATION,
        submit_model_task_name: str = AppConstants.TASK_SUBMIT_MODEL,
        train_with_evaluation: bool = False,
        memory_gc_rounds: int = 0,
        cuda_empty_cache: bool = False,
        attach_timeout: Optional[float] = None,
        allow_reconnect: bool = False,
    ):
        """Initializes a ClientAPIExecutor in mode attach, with this mode's arguments and defaults and no others.

        It runs nothing: a trainer that the site's own user has started joins the job. A site's `class_allow_list` can
        name it where ClientAPIExecutor, whose other modes run what the job says, would open the site to any command.
        All times are in seconds.

        Args:
            heartbeat_interval (float): between two heartbeats of the session.
            heartbeat_timeout (float): silence after which a trainer is lost.
            task_wait_timeout (float, optional): from the delivery of a task until the trainer has it. None: no limit.
            result_wait_timeout (float, optional): from the delivery of a task to its result. None: no limit.
            train_task_name (str): the task for which `flare.is_train()` holds.
            evaluate_task_name (str): the task for which `flare.is_evaluate()` holds.
            submit_model_task_name (str): the task for which `flare.is_submit_model()` holds.
            train_with_evaluation (bool): tells the script that train results are to have metrics.
            memory_gc_rounds (int): collect garbage in the trainer every so many rounds; 0: never.
            cuda_empty_cache (bool): also empty the CUDA cache then.
            attach_timeout (float, optional): how long a task waits for a trainer. None: no limit.
            allow_reconnect (bool): whether a new trainer may take over from a lost one.

        Raises:
            ValueError: names the argument, its value and what is allowed.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(execution_mode=ExecutionMode.ATTACH, **given)
