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

"""For attacks on a session: an honest end of its pipe, and a trainer that says what it likes under any name."""

import json
import queue
from typing import Callable, Optional

from nvflare.apis.dxo import DXO
from nvflare.app_common.executors.client_api.arguments import ClientAPIBackendContext, ExecutionMode
from nvflare.app_common.executors.client_api.session.handshake import Handshake, pack, unpack
from nvflare.app_common.executors.client_api.session.letters import HELLO, TASK, Letter, sealed_head
from nvflare.app_common.executors.client_api.session.trainer_pipe import HEAD, SEAL, TrainerPipe
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import Encoding, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message as CellMessage
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.utils.pipe.pipe import Message
from tests.unit_test.app_common.executors.job_harness import LIMIT


def pipe_of(federation, mode: Mode, keys: dict) -> TrainerPipe:
    """The pipe of a session at one of its ends, not open yet."""
    return TrainerPipe(
        mode.value,
        "site-1",
        keys["token"],
        federation.url,
        False,
        "",
        secret=keys["secret"],
        challenge=keys["challenge"],
    )


def context_of(on_record: Callable[[DXO], None]) -> ClientAPIBackendContext:
    """What a backend knows, of an executor that hands log records on and waits as long for a result as a test does.

    The executor has no room for a record for which False is returned.
    """
    executor = ClientAPIExecutor(ExecutionMode.ATTACH)
    executor.relay_log_record = lambda *records, can_wait: all([on_record(record) is not False for record in records])
    return ClientAPIBackendContext(executor, ExecutionMode.ATTACH, result_wait_timeout=LIMIT)


def letter_in(request: CellMessage) -> Letter:
    """The letter that a message of a cell brings."""
    topic, head, seal = (request.get_header(name) for name in (MessageHeaderKey.TOPIC, HEAD, SEAL))
    return Letter(topic, head, request.payload, seal)


class RawTrainer:
    def __init__(self, cell: Cell, channel: str, job: str, keys: dict, name: str = ""):
        """Has no session yet.

        Args:
            cell: from which it sends.
            channel: of the job's pipe.
            job: name of the cell of the job's pipe.
            keys: of the session, as far as it knows them.
            name: under which it sends; default: the cell's own.
        """
        self.cell = cell.core_cell
        self.channel = channel
        self.job = job
        self.name = name or cell.get_fqcn()
        self.handshake = Handshake(keys["secret"], keys["challenge"], job, self.name)
        self.hello = self.handshake.hello()
        self.seals = self.handshake.seals(self.hello, is_trainer=True)
        self.received = queue.Queue()
        self.cell.register_request_cb(channel, "*", self._take)
        if name:
            self.cell.add_outgoing_request_filter("*", "*", self._take_name)

    def _take_name(self, message: CellMessage) -> None:
        message.set_header(MessageHeaderKey.ORIGIN, self.name)

    def _take(self, request: CellMessage) -> CellMessage:
        letter = letter_in(request)
        if self.seals.check(letter.seal, sealed_head(letter.topic, letter.head), letter.payload):
            self.received.put(Message.new_request(letter.topic, None, json.loads(letter.head)[1]))
        reply = make_reply(ReturnCode.OK)
        reply.set_header(SEAL, self.seals.seal_answer(letter.seal, b""))
        return reply

    def take_task(self) -> Message:
        """Waits for a task; returns its id, and none of its content."""
        while (msg := self.received.get(timeout=LIMIT)).topic != TASK:
            pass
        return msg

    def join(self, hello: Optional[dict] = None) -> dict:
        """Says HELLO, its own or another's; returns the answer."""
        return unpack(self.ask(HELLO, CellMessage(payload=pack(hello or self.hello))).payload)

    def message(self, msg: Message) -> CellMessage:
        """Makes a message without a seal."""
        head = json.dumps([msg.msg_type, msg.msg_id, msg.req_id])
        headers = {HEAD: head, MessageHeaderKey.TOPIC: msg.topic, MessageHeaderKey.PAYLOAD_ENCODING: Encoding.BYTES}
        return CellMessage(headers, fobs.dumps(msg.data))

    def sealed(self, msg: Message, payload: Optional[bytes] = None) -> CellMessage:
        """Makes a message with a good seal; its payload may be given as it is on the wire."""
        request = self.message(msg)
        request.payload = request.payload if payload is None else payload
        letter = letter_in(request)
        request.set_header(SEAL, self.seals.seal(sealed_head(letter.topic, letter.head), letter.payload))
        return request

    def ask(self, topic: str, request: CellMessage, channel: str = "") -> CellMessage:
        copy = CellMessage(dict(request.headers or {}), request.payload)  # sending changes it
        return self.cell.send_request(channel or self.channel, topic, self.job, copy, timeout=LIMIT)

    def tell(self, topic: str, request: CellMessage, channel: str = "") -> None:
        copy = CellMessage(dict(request.headers or {}), request.payload)
        self.cell.fire_and_forget(channel or self.channel, topic, self.job, copy)
