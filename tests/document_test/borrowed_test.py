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

"""What is borrowed of nvflare's privates, or replaced at run time, is in the list of docs/design, and only that."""

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import nvflare.app_common.executors.client_api as client_api
from tests.unit_test.app_common.executors.client_api.layout_test import NEIGHBOURS
from tests.unit_test.app_common.executors.job_harness import PROJECT

PACKAGE = client_api.__name__
FOLDER = Path(client_api.__path__[0])
SOURCES = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*.py")}
SOURCES["client_api_executor.py"] = (FOLDER.parent / "client_api_executor.py").read_text()

LIST = (PROJECT / "docs" / "design" / "borrowed.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in LIST.splitlines() if line.startswith("| `")]
LISTED = {(name, place) for row in ROWS for name in re.findall(r"`(\w+)`", row[0]) for place in row[1].split("`")[1::2]}
# Public names of Python that look private.
PUBLIC = {"_exit", "_asdict"}


@cache
def trees() -> dict:
    """By place. Late: each worker of pytest-xdist collects this module, and one needs them."""
    return {place: ast.parse(source) for place, source in SOURCES.items()}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_nvflares(module: str) -> bool:
    return module.startswith("nvflare.") and not module.startswith(PACKAGE) and "client_api_executor" not in module


def is_of(kind: type, module) -> bool:
    return kind.__module__ == module.__name__


def defined_names() -> set:
    """All names that our source gives to functions, classes and variables."""
    nodes = [node for tree in trees().values() for node in ast.walk(tree)]
    names = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return names | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def own_attributes() -> set:
    """All names of attributes that a class of ours assigns to its objects, or declares."""
    names = set()
    for node in (node for tree in trees().values() for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def overridden_names() -> set:
    """Private methods of nvflare's that a class of ours overrides, with their places."""
    found = set()
    for place in (place for place in SOURCES if place.rpartition("/")[2] not in NEIGHBOURS):
        in_executors = place == "client_api_executor.py"
        prefix = PACKAGE.rpartition(".")[0] if in_executors else PACKAGE
        module = importlib.import_module(f"{prefix}.{place[:-3]}".replace("/", ".").removesuffix(".__init__"))
        for kind in (
            kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__
        ):
            bases = [base for base in kind.__mro__[1:] if is_nvflares(base.__module__)]
            methods = [name for name, value in vars(kind).items() if is_private(name) and inspect.isfunction(value)]
            found.update((name, place) for name in methods if any(hasattr(base, name) for base in bases))
    return found


def borrowed_names() -> set:
    """Private names that are imported from nvflare, or used and none of ours, with their places."""
    found, ours = set(), defined_names() | own_attributes() | PUBLIC
    for place, node in ((place, node) for place, tree in trees().items() for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and is_nvflares(node.module or ""):
            found.update((alias.name, place) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in ours:
            found.add((node.attr, place))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            found.update({(name, place)} if is_private(name) and name not in ours else ())
    return found


def replaced_names() -> set:
    """What is assigned to modules and classes of nvflare, and deep inside of something, with the places."""
    found, ours = set(), own_attributes()
    for place, tree in trees().items():
        imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        theirs = {
            alias.asname or alias.name
            for node in imports
            for alias in node.names
            if is_nvflares(f"{node.module}." if isinstance(node, ast.ImportFrom) else alias.name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                root, *between = ast.unparse(node.value).split(".")
                if root in theirs or (root != "self" and between and node.attr not in ours):
                    found.add((node.attr, place))
    return found


@pytest.mark.parametrize("find", [borrowed_names, overridden_names, replaced_names], ids=lambda find: find.__name__)
def test_whatever_is_borrowed_is_listed(find):
    found = find()
    assert found
    assert found <= LISTED, found - LISTED


@pytest.mark.parametrize("name, place", sorted(LISTED))
def test_whatever_is_listed_is_there(name, place):
    assert re.search(rf"\b{name}\b", SOURCES[place])


def test_every_row_says_what_guards_it():
    assert len(ROWS) >= 20
    assert all(len(row) == 5 and row[2] and row[4] for row in ROWS)
