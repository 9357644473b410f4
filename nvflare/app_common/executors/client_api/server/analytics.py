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

"""Brings what a script logs to whoever listens, at the site and at the server: every record, in order.

The script's thread or session puts records in; one thread takes them out and hands each to the executor, which fires it
as an event of the site, and, where nothing else would bring it to the server, as a federated one. The event that is to
leave the site is sent from here and not by nvflare's FedEventRunner: that one sends without waiting, the server's
thread pool reorders a burst, and the server drops every event that is older than the last one it saw of this site.
Here the next event leaves when the server has acknowledged the one before, so none is late. The thread exists only
once something was logged.
"""

import threading
import time
import uuid
from typing import Callable, List, NamedTuple

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE
from nvflare.apis.dxo import DXO
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import EventScope, FedEventHeader, FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.app_common.executors.client_api.arrays.onlookers import members_of
from nvflare.app_common.executors.client_api.arrays.parcels import array_bytes
from nvflare.app_common.executors.client_api.server import limits
from nvflare.app_common.executors.client_api.server.ordered_sender import OrderedSender
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.app_common.widgets.streaming import AnalyticsReceiver
from nvflare.fuel.f3.cellnet.defs import CellChannel
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message
from nvflare.widgets.fed_event import FED_EVENT_TOPIC

# The cell of a job is named SITE.JOB; more levels than these are relays on the way to the server.
DIRECT_CELL_LEVELS = 2

UNHEARD = (
    f"what the script logs reaches nobody: no component of this job listens to {ANALYTIC_EVENT_TYPE} at this site, and "
    f'none brings it to the server; for that add ConvertToFedEvent(["{ANALYTIC_EVENT_TYPE}"]) to the job\'s clients'
)

# Events of a site leave it one at a time, whichever executor of the job sends them: the server wants them in order.
_one_at_a_time = threading.Lock()
_last_timestamp = 0.0


class Audience(NamedTuple):
    """Who hears of what a script logs."""

    is_converted: bool  # a component makes federated events of the site's own, for the server
    is_heard: bool  # somebody may listen


def find_audience(engine) -> Audience:
    """Tells who of a job gets the site's own analytics events; the engine of a unit test knows of nobody."""
    members = members_of(engine)
    is_converted = any(isinstance(m, ConvertToFedEvent) and _listens(m.events_to_convert) for m in members)
    return Audience(is_converted, is_converted or any(_may_listen(m) for m in members))


def _may_listen(member) -> bool:
    if isinstance(member, AnalyticsReceiver):
        return _listens(member.events)
    if not isinstance(member, FLComponent):
        return False
    # Of nvflare's own components no other kind listens; what one's own does with an event nobody can tell.
    is_own = not type(member).handle_event.__module__.startswith("nvflare.")
    return is_own or _listens(member.get_event_handlers())


def _listens(events) -> bool:
    return ANALYTIC_EVENT_TYPE in events


class AnalyticsRelay(OrderedSender):
    """Hands log records on, each when the one before has been delivered."""

    def __init__(self, fire: Callable[[DXO], None], warning: str = ""):
        """Initializes the relay, which keeps what is logged until `release`, or `flush`: who has not started to listen
        would miss it.

        Args:
            fire: turns one record into analytics events; called on the relay's thread.
            warning: logged with the first record.
        """
        super().__init__(self._deliver, is_held=True, pause=limits.BURST_PAUSE)
        self.sent = 0  # acknowledged by the server
        self._fire = fire
        self._warning = warning
        # Marks an event that this relay sends; FedEventRunner takes only those with "out", other relays their own.
        self._direction = f"relay {uuid.uuid4()}"

    def stats(self) -> dict:
        return {"metrics_sent": self.sent, "metrics_dropped": self.dropped}

    def close(self) -> None:
        """Delivers what is pending (at most CLOSE_TIMEOUT seconds), ends the thread and reports what was lost."""
        super().close(limits.CLOSE_TIMEOUT, limits.ACK_TIMEOUT * limits.SEND_ATTEMPTS)
        if self.dropped:
            self.logger.warning(f"{self.dropped} log records could not be delivered ({self.sent} were)")

    def _deliver(self, records: List[DXO]) -> bool:
        if self._warning:
            self.logger.warning(self._warning)
            self._warning = ""
        for record in records:
            self._fire(record)
        return True

    def claim(self, event_data: Shareable) -> None:
        """Marks the data of an event, so that a federated event with it is sent from here and not by FedEventRunner."""
        event_data.set_header(FedEventHeader.DIRECTION, self._direction)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Sends a federated event that was claimed; returns when the server has it, or has not."""
        if event_type == EventType.BEFORE_PULL_TASK:
            self.release()
        elif event_type == EventType.AFTER_TASK_RESULT_FILTER:
            self.flush(abort_signal=fl_ctx.get_run_abort_signal())
        elif event_type == EventType.ABOUT_TO_END_RUN:
            self.flush(timeout=limits.CLOSE_TIMEOUT)  # while listeners at the site still listen
        data = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
        if fl_ctx.get_prop(FLContextKey.EVENT_SCOPE) != EventScope.FEDERATION or not isinstance(data, Shareable):
            return
        if data.get_header(FedEventHeader.DIRECTION) == self._direction:
            if self._send_event(event_type, data, fl_ctx):
                self.sent += 1
            else:
                self.count_dropped()

    def _send_event(self, event_type: str, data: Shareable, fl_ctx: FLContext) -> bool:
        # A copy: to a listener at the site, an event with this site as its peer would be one of another site.
        message = Shareable(data)
        for key, value in data[ReservedHeaderKey.HEADERS].items():
            message.set_header(key, value)
        message.set_header(FedEventHeader.EVENT_TYPE, event_type)
        message.set_header(FedEventHeader.ORIGIN, fl_ctx.get_identity_name())
        message.set_header(ReservedHeaderKey.TOPIC, FED_EVENT_TOPIC)
        message.set_peer_props(fl_ctx.get_all_public_props())
        with _one_at_a_time:
            message.set_header(FedEventHeader.TIMESTAMP, _next_timestamp())
            return self._request(message, fl_ctx)

    @staticmethod
    def _request(message: Shareable, fl_ctx: FLContext) -> bool:
        # Past the streaming layer that nvflare puts around this channel: an event is small, and one message and its
        # reply take a third of the time of two streams. Not behind a relay: there a plain reply never arrives, because
        # the server strips its authentication (FederatedServer) and the relay rejects what has none.
        # Nor with an array in it, which the server pulls, and only what comes by the streaming layer tells from where.
        cell = fl_ctx.get_engine().get_cell()
        is_behind_relay = len(FQCN.split(cell.get_fqcn())) > DIRECT_CELL_LEVELS
        sender = cell if is_behind_relay or array_bytes(message) else cell.core_cell
        server = FQCN.join([FQCN.ROOT_SERVER, fl_ctx.get_job_id()])
        for _ in range(limits.SEND_ATTEMPTS):
            reply = sender.send_request(
                channel=CellChannel.AUX_COMMUNICATION,
                target=server,
                topic=FED_EVENT_TOPIC,
                request=Message(payload=message),
                timeout=limits.ACK_TIMEOUT,
                optional=True,
            )
            if isinstance(reply.payload, Shareable) and reply.payload.get_return_code() == ReturnCode.OK:
                return True
        return False


def _next_timestamp() -> float:
    """The server takes only events with a growing timestamp, and the clock may stand still or be set back."""
    global _last_timestamp
    _last_timestamp = max(time.time(), _last_timestamp + 1e-6)
    return _last_timestamp
