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

"""What jobs of nvflare 2.8 can name and nvflare 2.9 does not have: made by .ci/gone_in_2_9.py, not by hand."""

# Modules and packages, with all that they have.
MODULES = (
    "nvflare.app_common.abstract.launcher",
    "nvflare.app_common.abstract.params_converter",
    "nvflare.app_common.executors.client_api_launcher_executor",
    "nvflare.app_common.executors.in_process_client_api_executor",
    "nvflare.app_common.executors.launcher_executor",
    "nvflare.app_common.executors.task_exchanger",
    "nvflare.app_common.hub",
    "nvflare.app_common.launchers",
    "nvflare.app_common.widgets.external_configurator",
    "nvflare.app_opt.pt.client_api_launcher_executor",
    "nvflare.app_opt.pt.in_process_client_api_executor",
    "nvflare.app_opt.pt.numpy_params_converter",
    "nvflare.app_opt.pt.tensor_params_converter",
    "nvflare.app_opt.tf.client_api_launcher_executor",
    "nvflare.app_opt.tf.in_process_client_api_executor",
    "nvflare.app_opt.tf.params_converter",
    "nvflare.client.ex_process",
    "nvflare.client.flare_agent",
    "nvflare.client.flare_agent_with_fl_model",
    "nvflare.client.model_registry",
    "nvflare.client.task_registry",
    "nvflare.fuel.utils.pipe",
)
# The public classes in them.
CLASSES = (
    "nvflare.app_common.abstract.launcher.Launcher",
    "nvflare.app_common.abstract.launcher.LauncherRunStatus",
    "nvflare.app_common.abstract.params_converter.ParamsConverter",
    "nvflare.app_common.executors.client_api_launcher_executor.ClientAPILauncherExecutor",
    "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor",
    "nvflare.app_common.executors.launcher_executor.LauncherExecutor",
    "nvflare.app_common.executors.task_exchanger.TaskExchanger",
    "nvflare.app_common.hub.hub_app_deployer.HubAppDeployer",
    "nvflare.app_common.hub.hub_controller.BcastOperator",
    "nvflare.app_common.hub.hub_controller.HubController",
    "nvflare.app_common.hub.hub_controller.RelayOperator",
    "nvflare.app_common.hub.hub_executor.HubExecutor",
    "nvflare.app_common.launchers.subprocess_launcher.SubprocessLauncher",
    "nvflare.app_common.widgets.external_configurator.ExternalConfigurator",
    "nvflare.app_opt.pt.client_api_launcher_executor.PTClientAPILauncherExecutor",
    "nvflare.app_opt.pt.in_process_client_api_executor.PTInProcessClientAPIExecutor",
    "nvflare.app_opt.pt.numpy_params_converter.NumpyToPTParamsConverter",
    "nvflare.app_opt.pt.numpy_params_converter.PTToNumpyParamsConverter",
    "nvflare.app_opt.pt.tensor_params_converter.PTReceiveParamsConverter",
    "nvflare.app_opt.pt.tensor_params_converter.PTSendParamsConverter",
    "nvflare.app_opt.tf.client_api_launcher_executor.TFClientAPILauncherExecutor",
    "nvflare.app_opt.tf.in_process_client_api_executor.TFInProcessClientAPIExecutor",
    "nvflare.app_opt.tf.params_converter.KerasModelToNumpyParamsConverter",
    "nvflare.app_opt.tf.params_converter.NumpyToKerasModelParamsConverter",
    "nvflare.client.ex_process.api.ExProcessClientAPI",
    "nvflare.client.flare_agent.AgentClosed",
    "nvflare.client.flare_agent.CallStateError",
    "nvflare.client.flare_agent.FlareAgent",
    "nvflare.client.flare_agent.FlareAgentException",
    "nvflare.client.flare_agent.FlareAgentWithCellPipe",
    "nvflare.client.flare_agent.Task",
    "nvflare.client.flare_agent_with_fl_model.FlareAgentWithFLModel",
    "nvflare.client.model_registry.ModelRegistry",
    "nvflare.client.task_registry.TaskRegistry",
    "nvflare.fuel.utils.pipe.cell_pipe.CellPipe",
    "nvflare.fuel.utils.pipe.file_accessor.FileAccessor",
    "nvflare.fuel.utils.pipe.file_pipe.FilePipe",
    "nvflare.fuel.utils.pipe.fobs_file_accessor.FobsFileAccessor",
    "nvflare.fuel.utils.pipe.memory_pipe.MemoryPipe",
    "nvflare.fuel.utils.pipe.pipe.Message",
    "nvflare.fuel.utils.pipe.pipe.Pipe",
    "nvflare.fuel.utils.pipe.pipe.Topic",
    "nvflare.fuel.utils.pipe.pipe_handler.PipeHandler",
)
# Constructor arguments of components that are there.
ARGUMENTS = {
    "nvflare.app_common.metrics_exchange.metrics_sender.MetricsSender": (
        "pipe_id",
        "read_interval",
        "heartbeat_interval",
        "heartbeat_timeout",
        "pipe_channel_name",
    ),
    "nvflare.app_common.widgets.metric_relay.MetricRelay": (
        "pipe_id",
        "read_interval",
        "heartbeat_interval",
        "heartbeat_timeout",
        "pipe_channel_name",
    ),
}
