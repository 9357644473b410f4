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

"""The body of the thread that runs an in_process script: its end is told once, and the process left as it was."""

import builtins
import os
import shlex
import sys
import threading
import traceback
from contextlib import ExitStack
from functools import partial
from typing import Callable, Optional

from nvflare.app_common.executors.client_api.formats.log_lines import keep_out_of_error_log, logging_print
from nvflare.app_common.executors.client_api.formats.outside_text import told_by_script
from nvflare.app_common.executors.client_api.owner_process import no_init_in_commands, run_as_main
from nvflare.app_common.executors.client_api.script.task_handover import TaskHandover
from nvflare.app_common.executors.client_api.script.trainer_api import InProcessTrainerAPI
from nvflare.app_common.executors.task_script_runner import TaskScriptRunner
from nvflare.client.api_context import ClientAPIType
from nvflare.security.logging import is_secure, secure_format_traceback

# Lines of a script's traceback that travel as the cause.
TRACEBACK_LINES = 20

# The error in a process that the script starts.
_NOT_IN_COMMANDS = (
    "in_process: only the process of the job itself can call flare.init(), not one that the script starts; for that "
    'set execution_mode="external_process"'
)


class ScriptThread(TaskScriptRunner):
    """Runs the script so that its end, whatever it is, is told once, and the process is left as it was found."""

    def __init__(
        self, custom_dir: str, script_path: str, script_args: str, api: InProcessTrainerAPI, exchange: TaskHandover
    ):
        super().__init__(custom_dir, script_path, script_args)
        self.name = os.path.basename(self.script_full_path)
        self._api = api
        self._exchange = exchange
        self._changes = ExitStack()  # what was changed in the process
        self._thread_failure = ""  # of the last thread of the script that died
        self.has_failed = False  # the script has ended, and not as a script that is done does

    def get_sys_argv(self) -> list:
        return [self.script_full_path] + shlex.split(self.script_args)

    def redirect(self) -> None:
        """Gives the process the script's sys.argv, a print() that logs, an eye on dying threads, word for commands."""
        for owner, name, value in (
            (sys, "argv", self.get_sys_argv()),
            (builtins, "print", logging_print(builtins.print)),
            (threading, "excepthook", partial(self._on_thread_died, threading.excepthook)),
        ):
            self._changes.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        if is_secure():
            keep_out_of_error_log(self.script_full_path)
        self._changes.enter_context(no_init_in_commands(ClientAPIType.IN_PROCESS_API, _NOT_IN_COMMANDS))

    def restore(self) -> None:
        self._changes.close()

    @property
    def has_used_flare(self) -> bool:
        return bool(self._api.script_threads)

    def run(self) -> None:
        """Runs the script on the caller's thread; returns when it, and every thread of it that used flare, ended."""
        try:
            run_as_main(self.script_full_path, before_end=self._join_threads)
            self._end(f"{self.name} returned{self._thread_failure}", failed=bool(self._thread_failure))
        except SystemExit as e:
            line = self._line_of(e.__traceback__)
            code = "" if e.code is None else repr(e.code) if isinstance(e.code, int) else told_by_script(repr(e.code))
            self._end(f"{self.name} called sys.exit({code}) at line {line}", failed=bool(e.code))
        except BaseException as e:  # a script may raise KeyboardInterrupt, too; it ends the script and nothing else
            self._end(f"{self.name} {self._describe(e)}")
        finally:
            self.restore()

    def _join_threads(self) -> None:
        for thread in self._api.script_threads - {threading.current_thread()}:
            thread.join()

    def _end(self, how: str, failed: bool = True) -> None:
        self.has_failed = self.has_failed or failed
        self._exchange.end_script(how)

    def _on_thread_died(self, default_hook: Callable, args) -> None:
        default_hook(args)
        if self._line_of(args.exc_traceback) is None or not self._api.owner.is_here:
            return  # no thread of the script, or one of a child that it has forked
        if isinstance(args.exc_value, SystemExit) and not args.exc_value.code:
            return  # it has ended itself, as by a return
        try:
            raise args.exc_value
        except BaseException as e:
            failure = f"thread {args.thread.name} {self._describe(e)}"
        self._thread_failure = f", and its {failure}"
        if args.thread in self._api.script_threads:
            self._end(f"{self.name}: {failure}")  # nobody else sends what this thread was to send

    def _line_of(self, tb) -> Optional[int]:
        """Returns the script's line that a traceback passes last, or None if it does not touch the script."""
        lines = [line for frame, line in traceback.walk_tb(tb) if frame.f_code.co_filename == self.script_full_path]
        return lines[-1] if lines else None

    def _describe(self, error: BaseException) -> str:
        """Describes the exception that is being handled."""
        lines = secure_format_traceback().splitlines()
        where = self._line_of(error.__traceback__)
        at = f" at line {where}" if where else ""
        return f"raised {type(error).__name__}{at}:\n" + "\n".join(lines[-TRACEBACK_LINES:])
