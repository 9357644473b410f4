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

"""The Client API's configuration for a job, and in it the formats in which parameters travel.

The job's client config may set the formats (`recipe.add_client_config` writes these keys). The trainer converts by
nvflare's own converters and computes differences, in every execution mode alike; the client job process (CJ) passes
parameters on. Only where tensors travel as tensors does it need torch, to read what it passes on.
"""

import logging
import sys
from enum import Enum
from typing import Any, Optional, Type

from nvflare.apis.fl_constant import FLMetaKey, SystemConfigs
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.executors.client_api.arrays.tensors import carry_tensors
from nvflare.app_common.executors.client_api.backend_spec import ClientAPIBackendContext, TrainerError
from nvflare.client.config import ConfigKey, ExchangeFormat, TransferType
from nvflare.client.utils import DIFF_FUNCS
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.config_service import ConfigService
from nvflare.fuel.utils.import_utils import optional_import

PARAMS_EXCHANGE_FORMAT = "params_exchange_format"
SERVER_EXPECTED_FORMAT = "server_expected_format"
PARAMS_TRANSFER_TYPE = "params_transfer_type"
_DEFAULTS = {
    PARAMS_EXCHANGE_FORMAT: ExchangeFormat.NUMPY,
    SERVER_EXPECTED_FORMAT: ExchangeFormat.NUMPY,
    PARAMS_TRANSFER_TYPE: TransferType.FULL,
}
# What ClientConfig calls these keys.
_CLIENT_KEYS = (ConfigKey.EXCHANGE_FORMAT, ConfigKey.SERVER_EXPECTED_FORMAT, ConfigKey.TRANSFER_TYPE)

logger = logging.getLogger(__name__)


def job_formats(carries_tensors: bool = False) -> dict:
    """Returns what the job's client config says of formats, as nvflare.client.config.ClientConfig names it.

    Args:
        carries_tensors: whether nobody in this process looks into a tensor, so that it needs no torch.

    Raises:
        TrainerError: a key has a value that is not allowed, or not together with the others; names them and what is.
    """
    # nvflare keeps the job's client config here, whatever its file format was (.json, .conf or .yml).
    config = ConfigService.get_section(SystemConfigs.APPLICATION_CONF) or {}
    try:
        formats = checked_formats(
            {key: config.get(key, default) for key, default in _DEFAULTS.items()}, "the job's client config"
        )
    except ValueError as e:
        raise TrainerError(str(e)) from None
    exchanged, expected, _ = formats.values()
    if exchanged == ExchangeFormat.PYTORCH:
        # A server that expects NumPy may send tensors all the same, which one without a decomposer would wait for.
        carries_tensors = carries_tensors or expected == ExchangeFormat.NUMPY
        (carry_tensors if carries_tensors and "torch" not in sys.modules else register_tensors)()
    if expected not in (exchanged, ExchangeFormat.NUMPY) and ExchangeFormat.RAW not in (exchanged, expected):
        logger.warning(
            f"nothing converts {PARAMS_EXCHANGE_FORMAT} {exchanged} to {SERVER_EXPECTED_FORMAT} {expected}: "
            "parameters travel as they are"
        )
    return dict(zip(_CLIENT_KEYS, formats.values()))


def checked_formats(formats: dict, whose: str) -> dict:
    """Checks values of the three keys, which may be members of the enums that they are from.

    Args:
        formats: by key.
        whose: for an error.

    Returns:
        The values by key, in the order of the keys.

    Raises:
        ValueError: one is not allowed, or not together with the others; names them and what is.
    """
    checked = {key: value_of(f"{whose}: {key}", formats[key], type(default)) for key, default in _DEFAULTS.items()}
    fault = format_fault(*checked.values())
    if fault:
        raise ValueError(f"{whose}: {fault}")
    return checked


def format_fault(exchanged: str, expected: str, transfer_type: str) -> Optional[str]:
    """Tells why these values of the three keys do not go together; None if they do."""
    if transfer_type == TransferType.DIFF and exchanged not in DIFF_FUNCS:
        return (
            f"{PARAMS_TRANSFER_TYPE} {transfer_type} is only possible with {PARAMS_EXCHANGE_FORMAT} "
            f"{' or '.join(key.value for key in DIFF_FUNCS)}, but that is {exchanged}"
        )
    if expected == ExchangeFormat.PYTORCH and exchanged != expected:
        # The trainer's Client API knows tensors only then, and would not get to read the task.
        return f"{SERVER_EXPECTED_FORMAT} {expected} needs the same {PARAMS_EXCHANGE_FORMAT}, not {exchanged}"
    return None


def client_config(context: ClientAPIBackendContext, fl_ctx: FLContext, carries_tensors: bool = False) -> dict:
    """Returns the Client API's configuration for this job, as nvflare.client.config.ClientConfig reads it.

    Args:
        context: the backend's.
        fl_ctx: the context.
        carries_tensors: see job_formats().

    Raises:
        TrainerError: a key of the job's client config has a value that is not allowed; names key, value and choices.
    """
    return {
        FLMetaKey.SITE_NAME: fl_ctx.get_identity_name(),
        FLMetaKey.JOB_ID: fl_ctx.get_job_id(),
        ConfigKey.TASK_EXCHANGE: {
            ConfigKey.TRAIN_WITH_EVAL: context.train_with_evaluation,
            **job_formats(carries_tensors),
            ConfigKey.TRAIN_TASK_NAME: context.train_task_name,
            ConfigKey.EVAL_TASK_NAME: context.evaluate_task_name,
            ConfigKey.SUBMIT_MODEL_TASK_NAME: context.submit_model_task_name,
            ConfigKey.MEMORY_GC_ROUNDS: context.memory_gc_rounds,
            ConfigKey.CUDA_EMPTY_CACHE: context.cuda_empty_cache,
        },
    }


def value_of(name: str, member: Any, choices: Type[Enum]) -> str:
    """Returns the value of an enum's member, which may be given as that.

    Raises:
        ValueError: there is no such member; names what it was for, and what is allowed.
    """
    try:
        return choices(member).value
    except ValueError:
        allowed = ", ".join(choice.value for choice in choices)
        raise ValueError(f"{name} must be one of {allowed}, but is {member!r}") from None


def register_tensors() -> None:
    """Has this process send and receive PyTorch tensors, as nvflare's own executors for PyTorch do in every job.

    Raises:
        TrainerError: it cannot import torch.
    """
    decomposer, is_there = optional_import(module="nvflare.app_opt.pt.decomposers", name="TensorDecomposer")
    if not is_there:
        raise TrainerError(
            f"tensors ({SERVER_EXPECTED_FORMAT} or {PARAMS_EXCHANGE_FORMAT} {ExchangeFormat.PYTORCH.value}, or a "
            f"component that makes them) need torch and safetensors in the Python that runs the job, {sys.executable}"
        )
    fobs.register(decomposer)
