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

import re

import pytest

from tests.unit_test.app_common.executors.job_harness import PROJECT

DESIGN = sorted((PROJECT / "docs" / "design").glob("*.md"))
DOCUMENTS = [*DESIGN, PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", PROJECT / "docs" / "migration.md"]
FOLDERS = [PROJECT / name for name in ("nvflare", "tests", "examples")]
PATHS = [path for folder in FOLDERS for path in folder.rglob("*.py")]
WORDS = {word for path in PATHS for word in re.findall(r"\w+", path.read_text())}


def told(document) -> str:
    """The words of a document that are set as code, its diagrams included."""
    text = document.read_text()
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DESIGN, ids=lambda path: path.name)
def test_classes_are_there(document):
    assert set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z]+[a-z]*)+\b", told(document))) - WORDS == set()


@pytest.mark.parametrize("document", DESIGN, ids=lambda path: path.name)
def test_modules_are_there(document):
    names = {name.rpartition("/")[2] for name in re.findall(r"`([\w/]+\.py)`", document.read_text())}
    assert names - {path.name for path in PATHS} == set()


def test_design_names_every_module_that_users_meet_and_every_room():
    text = (PROJECT / "docs" / "design" / "client_api_execution_modes.md").read_text()
    package = PROJECT / "nvflare" / "app_common" / "executors" / "client_api"
    assert {path.name for path in package.glob("*.py")} - {"__init__.py"} <= set(re.findall(r"\w+\.py", text))
    assert {f"`{path.parent.name}/`" for path in package.glob("*/__init__.py")} <= set(re.findall(r"`\w+/`", text))


@pytest.mark.parametrize("document", DESIGN, ids=lambda path: path.name)
def test_no_message_of_a_diagram_has_what_ends_it(document):
    diagrams = re.findall(r"```mermaid\n(.*?)```", document.read_text(), re.DOTALL)
    assert [line for diagram in diagrams for line in diagram.splitlines() if ";" in line or "#" in line] == []
