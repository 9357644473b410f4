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

"""The process that a script's `flare` belongs to, and the children of it that inherit what they must not use.

A worker of multiprocessing's Pool or of a DataLoader is, on Linux, a fork of the trainer: it has copies of the sockets
and the exit hooks, none of the threads, and locks in whatever state they were. So whatever acts asks `OwnerProcess`
first, without a lock; a forked child lets go of the connections at once, and its `flare` says why it cannot be used.
"""

import io
import os
import signal
import sys
import threading
import types
import weakref
from contextlib import contextmanager, suppress
from typing import Callable, Iterator, List, Optional, Tuple

import nvflare.client.api as client_api
from nvflare.client import api_context
from nvflare.client.api_context import APIContext, ClientAPIType
from nvflare.client.api_spec import CLIENT_API_TYPE_KEY
from nvflare.fuel.f3 import communicator
from nvflare.security.logging import secure_format_traceback


class UsedInChild(RuntimeError):
    """flare was used in a process that was forked from the one whose it is. A pool brings it to that process."""


def _used_in_child(call: str, owner: int) -> UsedInChild:
    return UsedInChild(
        f"flare.{call}() was called in process {os.getpid()}, which was forked from process {owner}: only the process "
        "that called flare.init() is connected to the job. Have the child return what it has found, or write it to a "
        "file, and call flare in that process."
    )


class OwnerProcess:
    """The process that has made this object, and whatever it is a part of."""

    def __init__(self):
        self.pid = os.getpid()
        _owners.add(self)

    @property
    def is_here(self) -> bool:
        return os.getpid() == self.pid


_owners = weakref.WeakSet()
_TYPE_KEY_HERE = "CLIENT_API_TYPE_OF_SCRIPT"

# What needs the connection. The rest of flare tells what the parent knew, such as the site's name.
_CALLS = {"receive", "send", "log", "is_running"}


class _InheritedAPI:
    """The Client API of a forked child: nothing of it acts."""

    def __init__(self, api, owner: int):
        self._api = api
        self._owner = owner

    def __getattr__(self, name: str):
        if name in _CALLS:
            raise _used_in_child(name, self._owner)
        return getattr(self._api, name)

    def shutdown(self) -> None:
        """There is nothing to release; the end of `with flare.init()` calls this."""


class _NoContexts(dict):
    """Where `flare.init()` looks for a context of its process, and would find the parent's."""

    def __init__(self, owner: int):
        super().__init__()
        self._owner = owner

    def get(self, key, default=None):
        raise _used_in_child("init", self._owner)


class _ContextsByRank(dict):
    """Where `flare.init()` finds the context of its process, whether it was told the rank before, or is now."""

    def get(self, key, default=None):
        rank, config_file = key
        of_process = (None, os.environ.get("RANK", "0"))
        ranks = of_process if rank in of_process else (rank,)
        return next((self[rank, config_file] for rank in ranks if (rank, config_file) in self), default)


def one_context_per_rank() -> None:
    """Has `flare.init()`, called once more with a rank as a callback of Lightning's does, find what the first made."""
    if not isinstance(client_api.context_dict, _ContextsByRank):
        client_api.context_dict = _ContextsByRank(client_api.context_dict)


def _let_go() -> None:
    """Runs in each forked child. No lock is taken: a thread that the child does not have may have held it."""
    owner = next(iter(_owners), None)
    if owner is None:
        return
    for context in client_api.context_dict.values():
        context.api = _InheritedAPI(context.api, owner.pid)
    client_api.context_dict = _NoContexts(owner.pid)
    client_api.global_context_lock = threading.Lock()
    # nvflare's exit hook would shut the parent's connections down, and wait for threads that are not here. Closed here,
    # a connection stays with the parent; left open, it would outlive the parent as long as this child lives.
    instances = getattr(communicator, "_running_instances", set())
    inherited = list(instances)
    instances.clear()
    for instance in inherited:
        for connection in list(instance.conn_manager.sfm_conns.values()):
            sock = getattr(connection.conn, "sock", None)
            if sock:
                sock.close()


os.register_at_fork(after_in_child=_let_go)


def forget_contexts(is_over: Callable[[APIContext], bool]) -> List[APIContext]:
    """Has the next `flare.init()` make a new context where it would find one that is over; returns those."""
    with client_api.global_context_lock:
        over = {key: context for key, context in client_api.context_dict.items() if is_over(context)}
        for key in over:
            del client_api.context_dict[key]
        if client_api.default_context is not None and is_over(client_api.default_context):
            client_api.default_context = None
    return list(over.values())


@contextmanager
def no_init_in_commands(api_type: ClientAPIType, why: str) -> Iterator[None]:
    """Has `flare.init()` fail in the processes that this one starts, with a text in the error that says why.

    They have this process's environment, by which `flare.init()` chooses its API, and nothing else of ours. So the
    variable there has the text, which nvflare finds "is not a valid ClientAPIType", and this process's own
    `flare.init()` reads another one.

    Args:
        api_type: of this process.
        why: the text.
    """
    if not hasattr(api_context, "CLIENT_API_TYPE_KEY"):  # a later nvflare: then without a word of why
        yield
        return
    values = {CLIENT_API_TYPE_KEY: why, _TYPE_KEY_HERE: api_type.value}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    api_context.CLIENT_API_TYPE_KEY = _TYPE_KEY_HERE
    try:
        yield
    finally:
        api_context.CLIENT_API_TYPE_KEY = CLIENT_API_TYPE_KEY
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run_as_main(path: str, before_end: Callable[[], None] = lambda: None) -> None:
    """Runs a script as the module `__main__`, also for worker processes that send the script's classes back.

    A child that the script forks ends here when the script does, with the exit code of a script that ends like that:
    what follows in the caller is the parent's.

    Args:
        path: of the script.
        before_end: called when the script has returned, while it is still `__main__`.
    """
    owner = os.getpid()
    module = types.ModuleType("__main__")
    module.__file__ = path
    # The second is what a worker that was not forked calls the script.
    replaced = {name: sys.modules.get(name) for name in ("__main__", "__mp_main__")}
    sys.modules.update(dict.fromkeys(replaced, module))
    try:
        with io.open_code(path) as f:
            code = compile(f.read(), path, "exec", dont_inherit=True)
        exec(code, module.__dict__)
        if os.getpid() == owner:
            before_end()
        else:
            _end_child(None)
    except BaseException as e:  # sys.exit(), too, is the end of a child
        if os.getpid() != owner:
            _end_child(e)
        raise
    finally:
        for name, old in replaced.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


def remember_process() -> Callable[[], None]:
    """Returns what gives a script's process back its present arguments, import path, working directory and handlers.

    These are the handlers of SIGINT and SIGTERM, if this is the main thread, which alone can set any.
    """
    argv, path, folder = sys.argv, sys.path[:], "."
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if is_main}
    with suppress(OSError):  # it was removed
        folder = os.getcwd()

    def restore() -> None:
        sys.argv, sys.path[:] = argv, path
        with suppress(OSError):  # it is removed by now, and nothing of ours is looked for in it
            os.chdir(folder)
        for number, handler in handlers.items():
            if handler is not None:  # it is Python's
                signal.signal(number, handler)

    return restore


def _end_child(error: Optional[BaseException]) -> None:
    """Never returns, whatever fails on the way: the script may have closed its output, or nobody reads it any more."""
    code = 1
    try:
        with suppress(Exception):
            code, text = _outcome(error)
            if text:
                print(text, file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
    finally:
        os._exit(code)


def _outcome(error: Optional[BaseException]) -> Tuple[int, str]:
    """Returns the exit code of a script that ends with this exception, and what Python prints then."""
    if error is None:
        return 0, ""
    if not isinstance(error, SystemExit):
        return 1, secure_format_traceback()
    if isinstance(error.code, (int, type(None))):
        return (error.code or 0) & 0xFF, ""
    return 1, str(error.code)
