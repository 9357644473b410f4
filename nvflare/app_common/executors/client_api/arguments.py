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

"""The arguments of ClientAPIExecutor: what each may be, its default, and in which execution mode it has a meaning.

One table, the fields of ClientAPIBackendContext, and one function that applies it: bad input is found when the executor
is constructed, which is when a job is built or its configuration is read. Only what a site alone can know, whether a
script is there, is left to the start of the job.
"""

import shlex
from dataclasses import dataclass, field, fields
from typing import Any, Callable, Iterable, NamedTuple, Optional

from nvflare.apis.executor import Executor
from nvflare.app_common.app_constant import AppConstants


class ExecutionMode:
    """How a Client API script runs: who starts its process, and whether it has one."""

    IN_PROCESS = "in_process"
    EXTERNAL_PROCESS = "external_process"
    ATTACH = "attach"


ALL_EXECUTION_MODES = (ExecutionMode.IN_PROCESS, ExecutionMode.EXTERNAL_PROCESS, ExecutionMode.ATTACH)
_IN_PROCESS = (ExecutionMode.IN_PROCESS,)
_EXTERNAL = (ExecutionMode.EXTERNAL_PROCESS,)
_ATTACH = (ExecutionMode.ATTACH,)
# 31 years. Python's locks count to 292 of them, and a few such times are added up.
MAX_SECONDS = 10**9


def _text(value) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    if "\0" in value:
        raise ValueError("a string without the character NUL, which no path and no command can have")
    return value


def _optional_text(value) -> Optional[str]:
    return None if value is None or not _text(value).strip() else value


def _name(value) -> str:
    if not _text(value).strip():
        raise ValueError("a non-blank string")
    return value


def _words(value) -> Optional[str]:
    """A command line: split into words as a POSIX shell would."""
    value = _optional_text(value)
    try:
        shlex.split(value or "")
    except ValueError as e:
        raise ValueError(f"a string that can be split into words like a shell command ({e})")
    return value


def _command(value) -> Optional[str]:
    value = _words(value)
    if value and not shlex.split(value)[0]:
        raise ValueError("a string whose first word names a program")
    return value


def _flag(value) -> bool:
    if isinstance(value, Iterable) or value not in (True, False):  # of an array nobody can tell
        raise ValueError("True or False")
    return bool(value)


def _count(value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("an integer of 0 or more")
    return value


def _seconds(positive: bool, optional: bool) -> Callable:
    lowest = "more than 0" if positive else "0 or more"
    allowed = f"a finite number of seconds, {lowest}, at most {MAX_SECONDS}" + (", or None" if optional else "")

    def check(value):
        if value is None and optional:
            return None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= MAX_SECONDS or (positive and value == 0):
            raise ValueError(allowed)
        return value

    return check


class Rule(NamedTuple):
    """What an argument may be, and where."""

    default: Any
    check: Callable  # returns the value to store, or raises ValueError with what is allowed
    modes: Iterable[str]  # where the argument has a meaning
    required_like: str  # an example, if these modes cannot do without the argument


def _argument(default, check: Callable, modes: Iterable[str] = ALL_EXECUTION_MODES, required_like: str = "") -> Any:
    return field(default=default, metadata={"rule": Rule(default, check, modes, required_like)})


_LIMIT, _TIME = _seconds(positive=True, optional=True), _seconds(positive=False, optional=False)


@dataclass(frozen=True)
class ClientAPIBackendContext:
    """What a backend may know: the executor it works for and the executor's validated arguments, with its defaults.

    All times are in seconds; None means no limit unless the argument says otherwise (see ClientAPIExecutor).
    """

    executor: Executor  # the ClientAPIExecutor
    execution_mode: str
    command: Optional[str] = _argument(None, _command, _EXTERNAL, required_like="python3 -u custom/train.py")
    task_script_path: Optional[str] = _argument(None, _optional_text, _IN_PROCESS)
    task_script_args: str = _argument("", lambda value: _words(_text(value)) or "", _IN_PROCESS)
    launch_once: bool = _argument(True, _flag, _EXTERNAL)
    launch_timeout: Optional[float] = _argument(None, _LIMIT, _EXTERNAL)
    shutdown_timeout: Optional[float] = _argument(None, _seconds(positive=False, optional=True), _EXTERNAL)
    stop_grace_period: float = _argument(30.0, _TIME, _EXTERNAL)
    heartbeat_interval: float = _argument(5.0, _seconds(positive=True, optional=False), _EXTERNAL + _ATTACH)
    heartbeat_timeout: float = _argument(30.0, _TIME, _EXTERNAL + _ATTACH)
    task_wait_timeout: Optional[float] = _argument(None, _LIMIT)
    result_wait_timeout: Optional[float] = _argument(None, _LIMIT)
    train_task_name: str = _argument(AppConstants.TASK_TRAIN, _name)
    evaluate_task_name: str = _argument(AppConstants.TASK_VALIDATION, _name)
    submit_model_task_name: str = _argument(AppConstants.TASK_SUBMIT_MODEL, _name)
    train_with_evaluation: bool = _argument(False, _flag)
    memory_gc_rounds: int = _argument(0, _count)
    cuda_empty_cache: bool = _argument(False, _flag)
    attach_timeout: Optional[float] = _argument(None, _LIMIT, _ATTACH)
    allow_reconnect: bool = _argument(False, bool, _ATTACH)


RULES = {field.name: field.metadata["rule"] for field in fields(ClientAPIBackendContext) if field.metadata}


def check_arguments(mode: str, given: dict) -> dict:
    """Checks the executor's arguments against RULES.

    Args:
        mode: the execution mode.
        given: all arguments by name; what is no argument is ignored.

    Returns:
        The arguments as they are to be stored: a blank command or path is None, flags are bool.

    Raises:
        ValueError: names the first bad argument, its value and what is allowed.
    """
    if not isinstance(mode, str) or mode not in ALL_EXECUTION_MODES:  # an array is in nothing
        raise ValueError(f"invalid execution_mode {mode!r}: must be one of {list(ALL_EXECUTION_MODES)}")
    checked = {name: _checked(name, rule, given[name], mode) for name, rule in RULES.items()}
    interval, timeout = checked["heartbeat_interval"], checked["heartbeat_timeout"]
    if timeout == 0 and mode == ExecutionMode.ATTACH:
        raise ValueError(f"heartbeat_timeout must be more than 0 with execution_mode {mode!r}, but is {timeout!r}")
    if 0 < timeout <= interval:
        raise ValueError(
            f"heartbeat_interval must be less than heartbeat_timeout, but they are {interval!r} and {timeout!r}"
        )
    return checked


def _checked(name: str, rule: Rule, value, mode: str):
    has_meaning = mode in rule.modes
    try:
        checked = rule.check(value)
        is_set = checked != rule.default
    except ValueError as e:
        if has_meaning:
            raise ValueError(f"{name} must be {e}, but is {value!r}") from None
        is_set = True  # in the wrong place whatever it is
    if is_set and not has_meaning:
        modes = " or ".join(repr(valid) for valid in rule.modes)
        raise ValueError(
            f"{name} is only valid for execution_mode {modes}, but got {name}={value!r} with execution_mode {mode!r}"
        )
    if has_meaning and rule.required_like and checked is None:
        raise ValueError(
            f"execution_mode {mode!r} requires a non-empty {name}, such as {rule.required_like!r}, but got {value!r}"
        )
    return checked
