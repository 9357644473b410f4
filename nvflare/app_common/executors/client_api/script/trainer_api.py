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

"""The Client API of an in_process script, and how a job's API is forgotten when the job is over."""

import threading
import weakref
from typing import Any, Callable, Optional

from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.executors.client_api.formats.difference import ScriptCopy
from nvflare.app_common.executors.client_api.formats.result_converter import ResultConverter
from nvflare.app_common.executors.client_api.formats.sendable import record_fields
from nvflare.app_common.executors.client_api.owner_process import OwnerProcess, forget_contexts
from nvflare.app_common.executors.client_api.script.task_handover import TaskHandover
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.client.api_spec import CLIENT_API_KEY
from nvflare.client.config import ClientConfig, ConfigKey
from nvflare.client.converter_utils import create_default_params_converters
from nvflare.client.in_process.api import (
    TOPIC_ABORT,
    TOPIC_GLOBAL_RESULT,
    TOPIC_LOCAL_RESULT,
    TOPIC_STOP,
    InProcessClientAPI,
)
from nvflare.fuel.data_event.data_bus import DataBus
from nvflare.fuel.data_event.event_manager import EventManager

# Threads of scripts that ignored the end of their job. flare finds its API by a global, so that they would train, and
# answer, for the next job in this process.
_abandoned_threads = weakref.WeakSet()


class InProcessTrainerAPI(InProcessClientAPI):
    """nvflare's in-process Client API, woken by events where the base class polls.

    A task waits in the TaskHandover until the script asks for it, and only then becomes the API's `fl_model`: the base
    class forgets its model at the end of `send()`, when the next task may already be there.
    """

    def __init__(self, config: dict, exchange: TaskHandover, passes_objects: bool):
        """Initializes the API.

        Args:
            config: as ClientConfig reads it.
            exchange: with the executor.
            passes_objects: see ResultConverter.
        """
        super().__init__(task_metadata=config)
        unsubscribe_all(self)  # the base class only sets flags that it polls
        self.data_bus.subscribe([TOPIC_GLOBAL_RESULT], self._on_task)
        self.data_bus.subscribe([TOPIC_ABORT, TOPIC_STOP], self._on_stop)
        self.event_manager = _ResultPublisher(self.data_bus, self._to_server_format)
        self.owner = OwnerProcess()
        self.script_threads = set()  # threads that have used this API
        self._exchange = exchange
        self._converter_context = FLContext()
        formats = ClientConfig(config)
        self._from_nvflare, to_nvflare = create_default_params_converters(
            formats.get_server_expected_format(),
            formats.get_exchange_format(),
            formats.get_train_task(),
            formats.get_eval_task(),
            formats.get_submit_model_task(),
        )
        self._to_nvflare = ResultConverter(to_nvflare, passes_objects)
        self._script_copy = ScriptCopy(formats.get_transfer_type())

    def init(self, rank: Optional[str] = None, config: Optional[dict] = None) -> None:
        self.script_threads.add(threading.current_thread())
        super().init(rank, config)

    def receive(self, timeout: Optional[float] = None) -> Optional[FLModel]:
        self._receive_task(timeout)
        if self.stop:
            return None  # the base class would warn of that, at the end of each good job
        return self._script_copy.of(super().receive(timeout=0))

    def is_running(self) -> bool:
        self._receive_task(None)
        return not self.stop and self.fl_model is not None

    def log(self, key: str, value: Any, data_type: AnalyticsDataType, **kwargs) -> None:
        self._check_caller()
        fields = record_fields(key, value=value, data_type=data_type, **kwargs)
        create_analytic_dxo(**fields)  # raises here what nvflare would refuse on a thread of its own
        super().log(fields.pop("tag"), **fields)

    def send(self, model: FLModel, clear_cache: bool = True) -> None:
        self._check_caller()
        if self.stop:
            self.logger.info(f"nothing was sent: {self.stop_reason}")
            return
        self._script_copy.check(model)
        super().send(model, clear_cache)
        if clear_cache:
            self._script_copy.release()

    def shutdown(self) -> None:
        self._on_stop(TOPIC_STOP, "the script called flare.shutdown()", self.data_bus)

    def _check_caller(self) -> None:
        if threading.current_thread() in _abandoned_threads:
            raise RuntimeError("the job of this script has ended")
        self.script_threads.add(threading.current_thread())

    def _receive_task(self, timeout: Optional[float]) -> None:
        self._check_caller()
        received = self._exchange.receive(lambda: self.stop or self.fl_model is not None, timeout)
        if self.stop:
            self.fl_model = None
            self._exchange.has_answered = True
        if received:
            task_name, shareable = received
            self.meta[ConfigKey.TASK_NAME] = task_name
            if self._from_nvflare:
                shareable = self._from_nvflare.process(task_name, shareable, self._converter_context)
            self.fl_model = FLModelUtils.from_shareable(shareable)
            self.receive_called = False

    def _to_server_format(self, result: Shareable) -> Shareable:
        return self._to_nvflare.process(self.meta[ConfigKey.TASK_NAME], result, self._converter_context)

    def _on_task(self, topic: str, task: Shareable, data_bus: DataBus) -> None:
        self._exchange.deliver(task)

    def _on_stop(self, topic: str, reason: str, data_bus: DataBus) -> None:
        self.stop, self.stop_reason = True, reason
        self._exchange.stop(reason)


class _ResultPublisher(EventManager):
    """Converts a result on the script's thread, just before it is published: an error is the script's to see."""

    def __init__(self, data_bus: DataBus, convert: Callable[[Shareable], Shareable]):
        super().__init__(data_bus)
        self._convert = convert

    def fire_event(self, event_name: str, event_data=None) -> None:
        if event_name == TOPIC_LOCAL_RESULT:
            event_data = self._convert(event_data)
        super().fire_event(event_name, event_data)


def unsubscribe_all(owner: object) -> None:
    """Removes every subscription of the owner's methods from the DataBus."""
    data_bus = DataBus()
    for topic, subscriptions in list(data_bus.subscribers.items()):
        for callback, _ in list(subscriptions):
            if getattr(callback, "__self__", None) is owner:
                data_bus.unsubscribe(topic, callback)


def forget_api(api: InProcessTrainerAPI) -> None:
    """Removes every trace of the API from the process, so that the next job's flare.init() finds its own."""
    data_bus = DataBus()
    _abandoned_threads.update(api.script_threads)
    unsubscribe_all(api)
    if data_bus.get_data(CLIENT_API_KEY) is api:
        data_bus.data_store.pop(CLIENT_API_KEY)
    # A context that the script has closed (`with flare.init()`) has no API any more, and is as useless.
    forget_contexts(lambda context: context.api in (api, None))
    api.clear()
