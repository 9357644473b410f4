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

"""What the trainer's Client API is told when it starts.

The job's client config may set how parameters are exchanged (`recipe.add_client_config` writes these keys); the trainer
converts formats and computes differences by them, in every execution mode alike.
"""

from enum import Enum
from typing import Type

from nvflare.apis.fl_constant import FLMetaKey, SystemConfigs
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.executors.client_api.backend_spec import ClientAPIBackendContext, TrainerError
from nvflare.client.config import ConfigKey, ExchangeFormat, TransferType
from nvflare.fuel.utils.config_service import ConfigService

PARAMS_EXCHANGE_FORMAT = "params_exchange_format"
SERVER_EXPECTED_FORMAT = "server_expected_format"
PARAMS_TRANSFER_TYPE = "params_transfer_type"


def client_config(context: ClientAPIBackendContext, fl_ctx: FLContext) -> dict:
    """Returns the Client API's configuration for this job, as nvflare.client.config.ClientConfig reads it.

    Raises:
        TrainerError: a key of the job's client config has a value that is not allowed; names key, value and choices.
    """
    return {
        FLMetaKey.SITE_NAME: fl_ctx.get_identity_name(),
        FLMetaKey.JOB_ID: fl_ctx.get_job_id(),
        ConfigKey.TASK_EXCHANGE: {
            ConfigKey.TRAIN_WITH_EVAL: context.train_with_evaluation,
            ConfigKey.EXCHANGE_FORMAT: _choice(PARAMS_EXCHANGE_FORMAT, ExchangeFormat, ExchangeFormat.NUMPY),
            ConfigKey.SERVER_EXPECTED_FORMAT: _choice(SERVER_EXPECTED_FORMAT, ExchangeFormat, ExchangeFormat.NUMPY),
            ConfigKey.TRANSFER_TYPE: _choice(PARAMS_TRANSFER_TYPE, TransferType, TransferType.FULL),
            ConfigKey.TRAIN_TASK_NAME: context.train_task_name,
            ConfigKey.EVAL_TASK_NAME: context.evaluate_task_name,
            ConfigKey.SUBMIT_MODEL_TASK_NAME: context.submit_model_task_name,
            ConfigKey.MEMORY_GC_ROUNDS: context.memory_gc_rounds,
            ConfigKey.CUDA_EMPTY_CACHE: context.cuda_empty_cache,
        },
    }


def _choice(key: str, choices: Type[Enum], default: Enum) -> str:
    # nvflare keeps the job's client config here, whatever its file format was (.json, .conf or .yml).
    config = ConfigService.get_section(SystemConfigs.APPLICATION_CONF) or {}
    value = config.get(key, default.value)
    try:
        return choices(value).value
    except ValueError:
        allowed = ", ".join(choice.value for choice in choices)
        raise TrainerError(f"{key} in the job's client config must be one of {allowed}, but is {value!r}") from None
