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

"""Pulls the arrays of a task from the server, for the client job process (CJ) and over a cell of its own.

nvflare can leave the arrays of what a cell receives where they are: in their places are `LazyDownloadRef`s then. It is
switched on for a channel of the CJ's cell, once for the job, and only where nothing else at the CJ has to see the
arrays: neither a filter of the job or of the site's privacy scope, nor another kind of executor, nor a component that
looks at tasks. Else nvflare brings the arrays itself.
"""

import threading
import time
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import nvflare.fuel.utils.app_config_utils as app_config
from nvflare.apis.fl_constant import ConfigVarName
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.arrays import limits
from nvflare.app_common.executors.client_api.arrays.arrival import Frames, HeapLanding, Landing, SharedLanding, land
from nvflare.app_common.executors.client_api.arrays.cells import NotConnected, OwnCell
from nvflare.app_common.executors.client_api.arrays.memory import CAN_SHARE
from nvflare.app_common.executors.client_api.arrays.onlookers import RESULTS, TASKS, nothing_else_sees
from nvflare.app_common.executors.client_api.arrays.parcels import new_mark, path_text, placeholder, replace_leaves
from nvflare.app_common.executors.client_api.arrays.progress import Progress
from nvflare.app_common.executors.client_api.arrays.specs import ArrayRefused
from nvflare.app_common.executors.client_api.backend_spec import TrainerError
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import CellChannel, Encoding, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import new_cell_message
from nvflare.fuel.f3.streaming.download_service import OBJ_DOWNLOADER_CHANNEL, OBJ_DOWNLOADER_TOPIC, ProduceRC, _PropKey
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.f3.streaming.stream_types import Stream, StreamError, StreamFuture
from nvflare.fuel.f3.streaming.stream_utils import stream_thread_pool
from nvflare.fuel.utils.fobs.decomposers.via_downloader import LazyDownloadRef
from nvflare.fuel.utils.fobs.lobs import load_from_stream
from nvflare.fuel.utils.log_utils import get_obj_logger
from nvflare.security.logging import secure_format_exception


class Pulled(NamedTuple):
    """A task that has come, and what it took."""

    task: Any  # with its arrays: a Placed one, or with the arrays themselves
    size: int  # bytes
    seconds: float


class TaskArrays:
    """A task, and its arrays while they are pulled; a context, at whose end the memory is let go of."""

    def __init__(self, task: Any, pull: Optional["Future[Pulled]"], landing: Landing, stop: Signal):
        self._task = task
        self._pull = pull
        self._landing = landing
        self._stop = stop
        self.pulled: Optional[Pulled] = None  # once it is

    def wait(self) -> Any:
        """Returns the task with its arrays, once they are here: a Placed one, or with the arrays themselves.

        Raises:
            TrainerError: they did not come, and why.
        """
        if self._pull is None:
            return self._task
        try:
            self.pulled = self._pull.result()
        except ArrayRefused as e:
            raise TrainerError(f"the arrays of the task cannot be taken: {e}") from e
        return self.pulled.task

    def __enter__(self) -> "TaskArrays":
        return self

    def __exit__(self, *_) -> None:
        self._stop.trigger("the task is over")
        if self._pull:
            self._pull.add_done_callback(lambda _: self._landing.close())


class _Chunk:
    """A chunk that was asked for: what the next one is asked for with is known before all of this one is here."""

    def __init__(self, state: Optional[dict], whole: "Future[dict]"):
        self.whole = whole
        self.head: "Future[dict]" = Future()  # without the arrays, but with as many items
        self._state = state  # with which it was asked for
        whole.add_done_callback(lambda done: self._set_head({} if done.exception() else done.result()))

    def note_head(self, head: dict) -> None:
        if head.get(_PropKey.STATE) != self._state:  # else it is of the chunk before, which was asked for again
            self._set_head(head)

    def _set_head(self, head: dict) -> None:
        with suppress(InvalidStateError):  # known already
            self.head.set_result(head)


class Puller:
    def __init__(self, fl_ctx: FLContext, is_handing_over: bool = False):
        """Has the tasks of the job come without their arrays, where that is possible.

        Args:
            fl_ctx: the context, at START_RUN.
            is_handing_over: to a trainer in another process: the arrays land in memory that it can be given.
        """
        self.logger = get_obj_logger(self)
        self._make_landing = SharedLanding if is_handing_over and CAN_SHARE else HeapLanding
        # Of what the trainer sends as tensors; else nobody here looks into them.
        self.makes_tensors = not (is_handing_over and nothing_else_sees(RESULTS, fl_ctx))
        self._channels = set()
        self._fl_ctx = fl_ctx
        self._cell: Optional[OwnCell] = None  # once it is needed
        self._landing: Tuple[str, Optional[Landing]] = ("", None)  # of the pull that goes on: prefix of names, landing
        self._expected: Optional[_Chunk] = None  # that was asked for last
        self._fault: Optional[Exception] = None  # why a chunk that has come could not be taken
        self._turn = threading.Lock()  # one that was given up ends before the next one begins
        self._short_layout: List[tuple] = []  # paths of the arrays of the last task, if they were short
        if nothing_else_sees(TASKS, fl_ctx):
            cell = fl_ctx.get_engine().get_cell()
            # Without these two, nvflare's own, no cell of ours could read an answer from its frames.
            if isinstance(cell, Cell) and hasattr(Cell, "_process_reply") and "requests_dict" in vars(cell):
                self._channels = cell.decode_pass_through_channels
                self._channels.add(CellChannel.SERVER_COMMAND)

    @property
    def carries_tensors(self) -> bool:
        """Whether nobody in this process looks into a tensor, neither of a task nor of a result."""
        return bool(self._channels) and not self.makes_tensors

    def start(self, task: Any, abort_signal: Signal) -> TaskArrays:
        """Begins to pull the arrays of a task, if it has not come with them; the abort signal ends that."""
        references, landing, stop = _references(task), self._make_landing(), Signal(parent=abort_signal)
        pull = stream_thread_pool.submit(self._pull_in_turn, task, references, landing, stop) if references else None
        return TaskArrays(task, pull, landing, stop)

    def _pull_in_turn(self, *args) -> Pulled:
        with self._turn:
            return self._pull(*args)

    def _pull(self, task: Any, references: Dict[str, LazyDownloadRef], landing: Landing, stop: Signal) -> Pulled:
        mark, progress = new_mark(), Progress("pulled")
        names, layout, paths = {name: number for number, name in enumerate(references)}, [], {}

        def hold_place(leaf: Any, path: tuple) -> Any:
            if not _is_ref(leaf):
                return leaf
            layout.append(path)
            paths[_name_of(leaf)] = path
            return placeholder(mark, names[_name_of(leaf)])

        content = replace_leaves(task, hold_place)
        ask = partial(self._ask, self._own_cell(), stop, layout == self._short_layout)
        try:
            for source, prefix in _sources(references).items():
                wanted = {name for name in names if name.startswith(prefix)}
                with _naming(paths, prefix):
                    self._pull_from(source, prefix, wanted, landing, progress, ask)
        finally:
            self._landing = "", None  # a chunk that still comes is of no use
        self._short_layout = layout if progress.done <= limits.SHORT_PULL else []
        return Pulled(landing.finish(content, mark, list(names)), progress.done, progress.seconds)

    def _pull_from(
        self, source: tuple, prefix: str, wanted: set, landing: Landing, progress: Progress, ask: Callable[..., dict]
    ) -> None:
        def begin(state: Optional[dict]) -> _Chunk:
            self._expected = _Chunk(state, stream_thread_pool.submit(ask, source, state))
            return self._expected

        self._landing, self._fault = (prefix, landing), None
        state, ahead = None, None
        while wanted:
            chunk = ahead or begin(state)
            head = chunk.head.result()
            is_last = len(head.get(_PropKey.DATA, ())) >= len(wanted)
            # The owner makes the next chunk while this one is on its way, or is taken apart.
            ahead = None if is_last or _PropKey.STATE not in head else begin(head[_PropKey.STATE])
            body = chunk.whole.result()
            status, state = body.get(_PropKey.STATUS), body.get(_PropKey.STATE)
            if status != ProduceRC.OK:
                raise TrainerError(f"{source[0]} ended ({status}) before {len(wanted)} arrays of the task had come")
            for item in body[_PropKey.DATA]:
                landed = land(item, prefix, landing)
                wanted.discard(landed.name)
                progress.add(len(landed))
        self._tell_end(source, state)

    def _tell_end(self, source: tuple, state: dict) -> None:
        """Has the owner know that all is here: it is asked for more, and has none.

        Nobody waits for the answer. If this is lost, the owner waits as long as for a site that has died.
        """
        request = _request(source, state)
        target, message = request.pop("target"), request.pop("request")
        self._cell.cell.core_cell.fire_and_forget(targets=target, message=message, **request)

    def _ask(self, cell: OwnCell, stop: Signal, is_short: bool, source: tuple, state: Optional[dict]) -> dict:
        timeout = app_config.get_positive_float_var(
            f"np_{ConfigVarName.STREAMING_PER_REQUEST_TIMEOUT}", limits.CHUNK_TIMEOUT
        )
        started = time.monotonic()
        for number in range(limits.CHUNK_TRIES):
            if is_short and not number:
                # One message each way; a stream is handed over between several threads, at both ends.
                reply = cell.cell.core_cell.send_request(
                    **_request(source, state), timeout=min(timeout, limits.SHORT_PULL_TIMEOUT)
                )
            else:
                reply = cell.cell.send_request(**_request(source, state), timeout=timeout, abort_signal=stop)
            rc = reply.get_header(MessageHeaderKey.RETURN_CODE)
            if stop.triggered:
                raise TrainerError("the task has ended while its arrays were pulled")
            if rc == ReturnCode.OK:
                return reply.payload
            if rc != ReturnCode.TIMEOUT or self._fault:
                break
            waited = time.monotonic() - started
            self.logger.warning(f"no byte of the arrays of the task has come from {source[0]} in {waited:.0f} s")
        if isinstance(self._fault, ArrayRefused):
            raise self._fault
        waited = f"{rc} after {time.monotonic() - started:.0f} s"
        why = secure_format_exception(self._fault) if self._fault else waited
        raise TrainerError(f"the arrays of the task cannot be pulled from {source[0]}: {why}")

    def _own_cell(self) -> OwnCell:
        if self._cell is None:
            try:
                self._cell = OwnCell.use(self._fl_ctx)
            except NotConnected as e:
                raise TrainerError(f"the arrays of the task cannot be pulled: {e}") from e
            topic = f"{OBJ_DOWNLOADER_CHANNEL}:{OBJ_DOWNLOADER_TOPIC}"
            self._cell.cell.register_stream_cb(CellChannel.RETURN_ONLY, topic, self._receive)
        return self._cell

    def _receive(self, future: StreamFuture, stream: Stream, resume: bool) -> int:
        cell, (prefix, landing), expected = self._cell.cell, self._landing, self._expected
        if future.headers.get(StreamHeaderKey.STREAM_REQ_ID) not in cell.requests_dict:
            # The task is over, as is usual when it was a short one and this tells that there is no more: no error then,
            # and raised here it would be one in the log.
            while stream.read(cell.get_chunk_size()):
                pass
            self.logger.debug("let go of a chunk that nobody waits for any more")
            return 0
        cell._process_reply(future)  # whoever has asked follows the progress from here on
        try:
            frames = Frames(stream, cell.get_chunk_size(), prefix, landing, expected.note_head)
            if future.headers.pop(StreamHeaderKey.PAYLOAD_ENCODING, None) == Encoding.FOBS:
                future.set_result(load_from_stream(frames, fobs_ctx=cell.get_fobs_context()))
            else:
                future.set_result(None)  # a refusal, which its return code tells
        except Exception as e:  # the top of a thread: the one that waits for the chunk gets to know
            if self._landing[1] is landing:
                self._fault = e
            future.set_exception(e if isinstance(e, StreamError) else StreamError(secure_format_exception(e)))
        return 0

    def close(self) -> None:
        """Has the tasks come as ever, and lets go of the cell. Idempotent."""
        self._channels.discard(CellChannel.SERVER_COMMAND)
        self._channels = set()
        cell, self._cell = self._cell, None
        if cell:
            cell.leave()


def _request(source: tuple, state: Optional[dict]) -> dict:
    """Returns the arguments with which a cell asks the owner of arrays for those that follow a state."""
    owner, ref_id = source
    payload = {_PropKey.REF_ID: ref_id, **({} if state is None else {_PropKey.STATE: state})}
    return {
        "channel": OBJ_DOWNLOADER_CHANNEL,
        "topic": OBJ_DOWNLOADER_TOPIC,
        "target": owner,
        "request": new_cell_message({}, payload),
        "optional": True,
    }


@contextmanager
def _naming(paths: Dict[str, tuple], prefix: str) -> Iterator[None]:
    """Has a refusal of an array say where in the task that is, for which there is a name only in what carries it."""
    try:
        yield
    except ArrayRefused as e:
        path = paths.get(prefix + e.name)
        raise ArrayRefused(f"{path_text(path)}: {e}") if path else e


def _is_ref(leaf: Any) -> bool:
    return isinstance(leaf, LazyDownloadRef)


def _name_of(leaf: LazyDownloadRef) -> str:
    # One array of a message has one name in it; its owner has sent the arrays of each kind under an id of their own.
    return f"{leaf.ref_id}/{leaf.item_id}"


def _references(task: Any) -> Dict[str, LazyDownloadRef]:
    found = {}

    def note(leaf: Any, _: tuple) -> Any:
        if _is_ref(leaf):
            found.setdefault(_name_of(leaf), leaf)
        return leaf

    replace_leaves(task, note)
    return found


def _sources(references: Dict[str, LazyDownloadRef]) -> Dict[tuple, str]:
    """Returns who has the arrays under which id, and the prefix of their names."""
    return {(ref.fqcn, ref.ref_id): f"{ref.ref_id}/" for ref in references.values()}
