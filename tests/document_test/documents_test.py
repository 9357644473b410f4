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

"""What the documents name is there: files they link, modules and classes they write of."""

import ast
import io
import re
import tokenize
from functools import cache

import pytest

from tests.integration_test.client_api.federation.chaos import JOB_LIMIT, PAUSE, TABLE, load_cases
from tests.integration_test.client_api.federation.federation import TUNING
from tests.integration_test.client_api.federation.jobs import LARGE
from tests.unit_test.app_common.executors.client_api.layout_test import BELOW
from tests.unit_test.app_common.executors.job_harness import PROJECT

DESIGN = sorted((PROJECT / "docs" / "design").glob("*.md"))
DOCUMENTS = [
    *PROJECT.glob("*.md"),
    *(path for name in ("docs", "examples", "bench", "tests") for path in sorted((PROJECT / name).rglob("*.md"))),
]
of_each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
FOLDERS = [PROJECT / name for name in ("nvflare", "tests", "examples", "bench")]
PATHS = [path for folder in FOLDERS for path in folder.rglob("*.py")]

NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
CONTRACT = (PROJECT / "docs" / "design" / "contract.md").read_text()


@cache
def words() -> set:
    return {word for path in PATHS for word in re.findall(r"\w+", path.read_text())}


def told(document) -> str:
    """The words of a document that are set as code, its diagrams included."""
    text = document.read_text()
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))


@of_each_document
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []


@of_each_document
def test_classes_are_there(document):
    assert set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z]+[a-z]*)+\b", told(document))) - words() == set()


@of_each_document
def test_modules_are_there(document):
    names = {name.rpartition("/")[2] for name in re.findall(r"`([a-z\d_/]+\.py)`", document.read_text())}
    assert names - {path.name for path in PATHS} == set()


def test_design_names_every_module_that_users_meet_and_every_room():
    text = (PROJECT / "docs" / "design" / "client_api_execution_modes.md").read_text()
    package = PROJECT / "nvflare" / "app_common" / "executors" / "client_api"
    assert {path.name for path in package.glob("*.py")} - {"__init__.py"} <= set(re.findall(r"\w+\.py", text))
    assert {f"`{path.parent.name}/`" for path in package.glob("*/__init__.py")} <= set(re.findall(r"`\w+/`", text))


def test_table_of_rooms_is_that_of_layout_test():
    text = (PROJECT / "docs" / "design" / "client_api_execution_modes.md").read_text()
    rows = re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|[^|]*\|$", text, re.MULTILINE)
    assert {room: set(re.findall(r"`(\w+)`", imports)) for room, imports in rows} == BELOW


def lines_of_code(path) -> int:
    """The lines of a source, without comments, blank lines, docstrings and licence."""
    source = path.read_text()
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in NO_CODE]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_lines_of_the_rooms_are_about_as_many_as_told():
    counts = dict.fromkeys([*BELOW, ""], 0)
    for path in trees():
        counts[path.parent.name if path.parent.name in BELOW else ""] += lines_of_code(path) * (path.stem != "migrate")
    text = (PROJECT / "docs" / "design" / "client_api_execution_modes.md").read_text()
    rows = re.findall(r"^\| ([^|]*) \| ([\d,]+) \|[^|]*\|$", text, re.MULTILINE)
    assert len(rows) == 6
    for places, told_lines in rows:
        lines = sum(counts[room] for room in re.findall(r"`(\w+)/`", places) or [""])
        assert int(told_lines.replace(",", "")) == pytest.approx(lines, rel=0.05), places


@pytest.mark.parametrize("document", DESIGN, ids=lambda path: path.name)
def test_no_message_of_a_diagram_has_what_ends_it(document):
    diagrams = re.findall(r"```mermaid\n(.*?)```", document.read_text(), re.DOTALL)
    assert [line for diagram in diagrams for line in diagram.splitlines() if ";" in line or "#" in line] == []


@cache
def trees() -> dict:
    package = PROJECT / "nvflare" / "app_common" / "executors"
    places = [*(package / "client_api").rglob("*.py"), package / "client_api_executor.py"]
    return {path: ast.parse(path.read_text()) for path in places}


def test_all_threads_are_told():
    calls = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    started = [call for call in calls if ast.unparse(call.func) in ("threading.Thread", "ThreadPoolExecutor")]
    names = {
        word.value
        for call in started
        for word in [*call.args, *(k.value for k in call.keywords if k.arg == "name")]
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    }
    assert len(names) > 5
    assert names - set(re.findall(r"`([\w-]+)`", CONTRACT)) == set()


def test_all_locks_are_told_with_their_owners():
    rows = [
        line.split("|") for line in CONTRACT.splitlines() if line.startswith("| `_") or line.startswith("| `changed")
    ]
    told_of = {
        (name.strip(" `"), owner) for _, name, owners, *_ in rows for owner in re.findall(r"`([\w/.]+)`", owners)
    }
    assert locks() - told_of == set()
    assert told_of - locks() == set()


def locks() -> set:
    """Of each lock or condition that is kept its name, and the class that keeps it, or else the module."""
    found = set()
    for path, tree in trees().items():
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        owners = {id(inner): node.name for node in classes for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and re.search(r"threading\.(Lock|Condition)\(", ast.unparse(node.value)):
                name = ast.unparse(node.targets[0]).removeprefix("self.")
                if "." not in name:  # of nvflare's modules: see borrowed.md
                    owner = owners.get(id(node), f"{path.parent.name}/{path.name}")
                    found.add((name, owner))
    return found


def test_chaos_tells_the_model_the_times_and_each_outcome():
    text = " ".join(TABLE.read_text().split())
    times = (f"SIGSTOP and, {PAUSE:g} s later", f"cut is {PAUSE:g} s in which", f"the job ends in {JOB_LIMIT:g} s")
    for told_of in (f"a model of {4 * LARGE // 2**20} MB", *times, *(f"`{key}={TUNING[key]}`" for key in TUNING)):
        assert told_of in text
    assert set(re.findall(r"`([a-z ]+)`: ", text)) == {case.expected for case in load_cases()}
