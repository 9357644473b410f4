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

"""The rooms of the project, and who may import whom: down only, as docs/design draws it."""

import ast
import re
import sys
from pathlib import Path

import pytest

import nvflare.app_common.executors.client_api as client_api

PACKAGE = client_api.__name__
FOLDER = Path(client_api.__path__[0])
# What all may import: the contract, and how to wait and to act as the right process.
COMMON = {"backend_spec", "arguments", "waiting", "owner_process", "job_owner"}
# Room: the rooms below it. `process` knows no protocol, `session` no process, `arrays` neither.
BELOW = {
    "arrays": set(),
    "formats": {"arrays"},
    "server": {"arrays"},
    "process": {"formats"},
    "script": {"formats"},
    "session": {"formats", "arrays", "server"},
    "migration": {"formats", "script"},
}
# Whatever has nvflare has these, too; the others only in the processes of a job that uses tensors.
ALWAYS_THERE = {"nvflare", "numpy", "yaml"}
WITH_TENSORS = {"torch", "safetensors"}
# What runs as a script imports its neighbours, and nothing of nvflare.
NEIGHBOURS = {"process_guard.py": {"process_table"}, "process_table.py": set()}
BACKENDS = {"in_process_backend", "external_process_backend", "attach_backend"}
# Beside the rooms: the contract, a backend per mode, and what users name in configs, commands and imports.
DOORS = COMMON | BACKENDS | {"__init__", "attach", "migrate", "client_api_runner", "params_filter"}


def imported(path: Path) -> set:
    """The rooms, or modules beside them, that a module of ours imports, at its head or late."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE + "."):
            names.add(node.module[len(PACKAGE) + 1 :].partition(".")[0])
        elif isinstance(node, ast.Import):
            names.update(a.name[len(PACKAGE) + 1 :].partition(".")[0] for a in node.names if a.name.startswith(PACKAGE))
    return names


def test_every_room_and_door_is_known():
    rooms = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    assert rooms == BELOW.keys()
    assert {path.stem for path in FOLDER.glob("*.py")} == DOORS


@pytest.mark.parametrize("room", BELOW)
def test_room_says_what_it_is_for(room):
    assert ast.get_docstring(ast.parse((FOLDER / room / "__init__.py").read_text()))


@pytest.mark.parametrize("room", BELOW)
def test_imports_go_down_only(room):
    used = set().union(*(imported(path) for path in (FOLDER / room).glob("*.py")))
    assert used - COMMON - {room} == BELOW[room]


def test_the_common_part_imports_nothing_above_it():
    for name in COMMON:
        assert imported(FOLDER / f"{name}.py") <= COMMON, name


def test_only_the_executor_imports_a_backend_and_late():
    others = [path for path in FOLDER.rglob("*.py") if imported(path) & BACKENDS]
    assert others == []
    executor = ast.parse((FOLDER.parent / "client_api_executor.py").read_text())
    at_its_head = {node.module for node in executor.body if isinstance(node, ast.ImportFrom)}
    assert at_its_head.isdisjoint(f"{PACKAGE}.{name}" for name in BACKENDS)


def packages_of(nodes) -> set:
    """The packages, beside the standard library, that import statements name."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_nothing_is_imported_that_nvflare_does_not_bring(path):
    tree = ast.parse(path.read_text())
    assert packages_of(tree.body) <= NEIGHBOURS.get(path.name, ALWAYS_THERE)
    assert packages_of(ast.walk(tree)) <= NEIGHBOURS.get(path.name, ALWAYS_THERE | WITH_TENSORS)


# Lines of a module, and of a function without its docstring; files beside the rooms.
LONGEST_MODULE, LONGEST_FUNCTION, MOST_DOORS = 350, 40, 12
OURS = sorted([*FOLDER.rglob("*.py"), *(FOLDER.parent / f"{name}_executor.py" for name in ("client_api", "attach"))])
# Who may catch whatever is raised, how many times, and why: the top of a thread, the border to what is not ours and may
# raise anything, or who has something to undo before it goes on.
BROAD = {
    "client_api_executor.py": (5, "the framework must not meet an exception of ours"),
    "attach.py": (1, "a script's failure is told to the job"),
    "attach_backend.py": (1, "the top of a thread"),
    "owner_process.py": (1, "the end of a forked child"),
    "params_filter.py": (1, "a converter of the job's"),
    "arrays/memory.py": (1, "undone"),
    "arrays/onlookers.py": (1, "an engine that cannot tell its components"),
    "arrays/pull.py": (1, "the top of a thread"),
    "formats/result_converter.py": (2, "converters"),
    "formats/sendable.py": (1, "what FOBS takes out of an object"),
    "migration/config_parse.py": (1, "three parsers"),
    "migration/job_folder.py": (2, "undone"),
    "migration/parts.py": (2, "constructors of a job's components"),
    "process/foreign_launcher.py": (2, "a launcher of the job's"),
    "process/process_tree.py": (2, "the top of a thread; a callback"),
    "script/script_thread.py": (2, "the top of a thread, and of those that a script starts"),
    "server/ordered_sender.py": (1, "the top of a thread"),
    "server/results.py": (1, "nvflare sends a result without this, too"),
    "session/channel.py": (3, "the top of a thread; what decodes the classes that a peer sends; who takes messages"),
    "session/foreign_pipe.py": (2, "a pipe of the job's"),
    "session/private_files.py": (1, "undone"),
    "session/rendezvous.py": (1, "undone"),
}


def place_of(path: Path) -> str:
    return str(path.relative_to(FOLDER)) if path.is_relative_to(FOLDER) else path.name


def names_in(node) -> list:
    return [part for part in ast.walk(node) if isinstance(part, ast.Name)]


@pytest.mark.parametrize("room", sorted(path.parent.name for path in FOLDER.glob("*/limits.py")))
def test_limits_of_a_room_stand_in_one_place(room):
    # What runs as a script, the guard, has its own.
    others = [path for path in (FOLDER / room).glob("*.py") if path.name not in {"limits.py", *NEIGHBOURS}]
    assignments = [node for path in others for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    names = {node.id for assignment in assignments for target in assignment.targets for node in names_in(target)}
    assert [name for name in names if re.search("(TIMEOUT|INTERVAL|PAUSE|LIMIT|TRIES|ATTEMPTS)$", name)] == []


def test_few_files_stand_beside_the_rooms():
    assert len(DOORS - {"__init__"}) <= MOST_DOORS


@pytest.mark.parametrize("path", OURS, ids=place_of)
def test_no_module_and_no_function_is_long(path):
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_MODULE
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions if length_of(function) > LONGEST_FUNCTION] == []


def length_of(function: ast.FunctionDef) -> int:
    docstring = function.body[0] if ast.get_docstring(function) else None
    told = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
    return function.end_lineno - function.lineno + 1 - told


@pytest.mark.parametrize("path", OURS, ids=place_of)
def test_whatever_is_raised_is_caught_only_where_it_is_listed(path):
    handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
    allowed, _ = BROAD.get(place_of(path), (0, ""))
    assert sum(catches_all(handler) for handler in handlers) == allowed


def test_who_is_listed_is_there():
    assert BROAD.keys() <= {place_of(path) for path in OURS}
    assert NEIGHBOURS.keys() <= {path.name for path in OURS}


def catches_all(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"Exception", "BaseException"})
