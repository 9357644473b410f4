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

"""What the trainer's Client API is told when it starts, and the file that carries it to another process."""

import json
import os
import tempfile

from nvflare.apis.fl_constant import ConnPropKey, FLMetaKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.executors.client_api.backend_spec import ClientAPIBackendContext, TrainerError
from nvflare.app_common.executors.client_api.formats import job_formats
from nvflare.app_common.executors.client_api.handshake import new_session_keys
from nvflare.app_common.executors.client_api.log_lines import site_levels
from nvflare.app_common.executors.client_api.trainer_pipe import CHANNEL, TrainerPipe
from nvflare.app_common.utils.export_utils import update_export_props
from nvflare.client.config import ConfigKey
from nvflare.fuel.data_event.utils import get_scope_property
from nvflare.fuel.utils.constants import Mode

# What flare.init() calls with the arguments in the bootstrap file; named here, because only a trainer imports it.
TRAINER_END = "nvflare.app_common.executors.client_api.trainer_agent.trainer_end"


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
            **job_formats(),
            ConfigKey.TRAIN_TASK_NAME: context.train_task_name,
            ConfigKey.EVAL_TASK_NAME: context.evaluate_task_name,
            ConfigKey.SUBMIT_MODEL_TASK_NAME: context.submit_model_task_name,
            ConfigKey.MEMORY_GC_ROUNDS: context.memory_gc_rounds,
            ConfigKey.CUDA_EMPTY_CACHE: context.cuda_empty_cache,
        },
    }


def session_pipe_args(context: ClientAPIBackendContext, pass_through: bool, fl_ctx: FLContext) -> dict:
    """Returns the arguments of both ends of a new session's pipe."""
    core_cell = fl_ctx.get_engine().get_cell().core_cell
    site_name = fl_ctx.get_identity_name()
    # The simulator has no connection properties; elsewhere an empty URL means "through the client parent".
    is_simulated = not get_scope_property(site_name, ConnPropKey.ROOT_CONN_PROPS)
    return {
        "site_name": site_name,
        "root_url": core_cell.root_url if is_simulated else "",
        "secure_mode": core_cell.secure,
        "workspace": fl_ctx.get_workspace().get_root_dir(),
        "heartbeat_interval": context.heartbeat_interval,
        "heartbeat_timeout": context.heartbeat_timeout,
        "pass_through": pass_through,
        **new_session_keys(),
    }


def session_bootstrap(config: dict, pipe_args: dict, fl_ctx: FLContext) -> dict:
    """Returns what a trainer in another process needs to join a session: the site's credentials and the pipe.

    Args:
        config: from client_config().
        pipe_args: of TrainerPipe, the mode excepted.
        fl_ctx: the context.
    """
    content = with_pipe(config, TrainerPipe, pipe_args)
    update_export_props(content, fl_ctx)
    return content


def with_pipe(config: dict, pipe_class: type, arguments: dict) -> dict:
    """Returns the trainer's configuration with its end of the pipe.

    Args:
        config: from client_config().
        pipe_class: of both ends.
        arguments: of the pipe, the mode excepted.
    """
    path = f"{pipe_class.__module__}.{pipe_class.__name__}"
    exchange = {
        **config[ConfigKey.TASK_EXCHANGE],
        ConfigKey.PIPE_CHANNEL_NAME: CHANNEL,
        ConfigKey.PIPE: {
            ConfigKey.CLASS_NAME: TRAINER_END,
            ConfigKey.ARG: {
                "end_class": path,
                "log_levels": site_levels(),
                "mode": Mode.ACTIVE.value,
                **arguments,
            },
        },
    }
    return {**config, ConfigKey.TASK_EXCHANGE: exchange}


def write_bootstrap(path: str, content: dict) -> None:
    """Writes the bootstrap file, which holds credentials: readable by its owner only, and never half-written.

    Raises:
        TrainerError: the file cannot be written; names it and says why.
    """
    temp_path = None
    try:
        # mkstemp creates the file with mode 0600, before it has any content.
        fd, temp_path = tempfile.mkstemp(prefix=".client_api_", dir=os.path.dirname(path))
        with os.fdopen(fd, "w") as f:
            json.dump(content, f)
        os.replace(temp_path, path)
    except OSError as e:
        if temp_path:
            remove_bootstrap(temp_path)
        raise TrainerError(f"the trainer's bootstrap file {path} cannot be written: {e.strerror}") from e


def remove_bootstrap(path: str) -> None:
    """Removes the bootstrap file if it is there."""
    try:
        os.remove(path)
    except OSError:
        pass  # never written, or its folder is gone with the job's workspace
