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

"""What to tell about a mistake in a job: functions of names and texts alone."""

import difflib
import re
import shlex
from typing import Iterable, List, Optional

# What a name, or a word of it, means: the arguments that say what to run, and with what.
_MEANT = {
    "result_wait_timeout": ("task_wait_timeout",),
    **dict.fromkeys(("args", "arguments", "argv"), ("task_script_args",)),
    **dict.fromkeys(("command", "cmd", "exec", "program"), ("command", "script", "task_script_path")),
    "script": ("script", "task_script_path"),
}
# Of a name's likeness to a known one: from here on it is a slip of the pen.
_TYPO = 0.8
_QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.")
_SINGLE_QUOTED = re.compile(r"'[^']*'|\\.")
_OPERATOR = re.compile(r"\d?>&\d|&&|\|\||;;?|>>?|<<?|\||&")
# nvflare itself resolves {$NAME}.
_EXPANSION = re.compile(r"(?<!\{)\$(?:\w+|\{\w+\}|\([^)]*\)?)|`")
_BUILTINS = {"cd", "source", ".", "export", "set", "unset", "ulimit", "alias", "eval", "exec", "trap", "umask"}


def similar(name: str, known: Iterable[str]) -> Optional[str]:
    """Returns the known name that was probably meant."""
    known = list(known)
    words = {name, *name.split("_")}
    meant = [argument for word, arguments in _MEANT.items() if word in words for argument in arguments]
    typos, like = (difflib.get_close_matches(name, known, 1, cutoff) for cutoff in (_TYPO, 0.6))
    return next((argument for argument in (*typos, *meant, *like) if argument in known), None)


def unknown_argument(of: str, name: str, known: Iterable[str]) -> str:
    """What to do about an argument that a part does not have."""
    if name == "class_attributes":  # nvflare takes its content for all arguments
        return "write what is in it in its place, and migrate again"
    meant = similar(name, known)
    what = f"rename it to {meant}" if meant else "remove it"
    if not meant and "launcher_id" in known and similar(name, ["script"]):
        what = "write it as the script of its launcher"
    return f"no argument of {of}: {what}, and migrate again"


def unknown_component(component_id: str, known: Iterable[str]) -> str:
    """What to do about an id that no component has."""
    meant = similar(component_id, known)
    problem = f"there is no component {component_id!r}"
    return f"{problem}: {meant!r} is probably meant: correct it, and migrate again" if meant else problem


def shell_syntax(command: str) -> List[str]:
    """Returns what in a command only a shell understands, in its order."""
    unquoted, expanded = (q.sub(lambda m: "_" * len(m.group()), command) for q in (_QUOTED, _SINGLE_QUOTED))
    found = [(m.start(), m.group()) for m in _OPERATOR.finditer(unquoted)]
    found += [(m.start(), m.group()) for m in _EXPANSION.finditer(expanded)]
    words = unquoted.split()
    if words and (words[0] in _BUILTINS or re.match(r"\w+=", words[0])):
        found.append((0, words[0]))
    return list(dict.fromkeys(text for _, text in sorted(found)))


def as_shell_command(command: str) -> str:
    """Returns the command that has a shell run it."""
    return f"bash -c {shlex.quote(command)}"
