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

"""What a trainer in another process is told when it starts, and the file that carries it there."""

from pathlib import Path
from typing import Tuple, Type

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.executors.client_api.arguments import ExecutionMode
from nvflare.app_common.executors.client_api.arrays.cells import cellnet_args
from nvflare.app_common.executors.client_api.backend_spec import ClientAPIBackendContext, TrainerError
from nvflare.app_common.executors.client_api.formats.log_lines import site_levels
from nvflare.app_common.executors.client_api.job_owner import Owner
from nvflare.app_common.executors.client_api.session.channel import Channel
from nvflare.app_common.executors.client_api.session.handshake import new_session_keys
from nvflare.app_common.executors.client_api.session.letters import CHANNEL
from nvflare.app_common.executors.client_api.session.private_files import create_private, remove_orphans
from nvflare.app_common.executors.client_api.session.rendezvous import RANKS_FILES, RENDEZVOUS_FILE
from nvflare.app_common.executors.client_api.session.trainer_pipe import TrainerPipe
from nvflare.app_common.utils.export_utils import update_export_props
from nvflare.client.config import ConfigKey
from nvflare.client.constants import CLIENT_API_CONFIG
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.log_utils import get_module_logger

# What flare.init() calls with the arguments in the bootstrap file; named here, because only a trainer imports it.
TRAINER_END = "nvflare.app_common.executors.client_api.session.trainer_agent.trainer_end"

_logger = get_module_logger(__name__)


def cell_session(
    context: ClientAPIBackendContext, config: dict, fl_ctx: FLContext, makes_tensors: bool
) -> Tuple[TrainerPipe, dict]:
    """Makes the pipe of a new session, over a cell; see new_session. The trainer's part has the site's credentials.

    Args:
        context: the backend's.
        config: from job_formats.client_config().
        fl_ctx: the context.
        makes_tensors: of what the trainer sends as tensors.
    """
    cellnet = cellnet_args(fl_ctx)
    cellnet["workspace"] = cellnet.pop("workspace_dir")  # see TrainerPipe for the name
    pipe, content = new_session(context, config, TrainerPipe, cellnet, cellnet)
    update_export_props(content, fl_ctx)
    pipe.exchange.makes_tensors = makes_tensors
    return pipe, content


def new_session(
    context: ClientAPIBackendContext, config: dict, pipe_class: Type[Channel], own: dict, peers: dict
) -> Tuple[Channel, dict]:
    """Makes the pipe of a new session.

    Args:
        context: the backend's.
        config: from job_formats.client_config().
        pipe_class: of both ends.
        own, peers: arguments of the CJ's end and of the trainer's, beside those that all channels have.

    Returns:
        The CJ's end, and what a trainer in another process needs to join.
    """
    is_attached = context.execution_mode == ExecutionMode.ATTACH
    common = {
        "heartbeat_interval": context.heartbeat_interval,
        "heartbeat_timeout": context.heartbeat_timeout,
        "is_attached": is_attached,
        **new_session_keys(),
    }
    trainers = {
        "end_class": f"{pipe_class.__module__}.{pipe_class.__name__}",
        "log_levels": site_levels(),
        "mode": Mode.ACTIVE.value,
        "owner": "" if is_attached else str(Owner.here()),
        **peers,
        **common,
    }
    exchange = {
        **config[ConfigKey.TASK_EXCHANGE],
        ConfigKey.PIPE_CHANNEL_NAME: CHANNEL,
        ConfigKey.PIPE: {ConfigKey.CLASS_NAME: TRAINER_END, ConfigKey.ARG: trainers},
    }
    return pipe_class(mode=Mode.PASSIVE.value, **own, **common), {**config, ConfigKey.TASK_EXCHANGE: exchange}


def write_bootstrap(path: str, content: dict) -> None:
    """Writes the bootstrap file, which holds credentials: readable by its owner only, and never half-written.

    Raises:
        TrainerError: the file cannot be written; names it and says why.
    """
    try:
        create_private(path, content).close()
    except OSError as e:
        raise TrainerError(f"the trainer's bootstrap file {path} cannot be written: {e.strerror}") from e


def remove_stale_files(fl_ctx: FLContext) -> None:
    """Removes what jobs of this site whose processes were killed have left: their files hold credentials."""
    config = Path(fl_ctx.get_workspace().get_app_config_dir(fl_ctx.get_job_id()))
    folders = config.parents[2].glob(f"*/{config.parent.name}/{config.name}")
    for path in remove_orphans(folders, (CLIENT_API_CONFIG, RENDEZVOUS_FILE, RANKS_FILES)):
        _logger.info(f"removed {path}, which a job that is gone has left")
