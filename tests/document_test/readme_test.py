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

"""What README and the guide show is what happens: their configs, their Python, their tables."""

import ast
import enum
import inspect
import json
import re
from functools import cache
from pathlib import Path

import pytest

import nvflare
import nvflare.app_common.executors.client_api as client_api
from nvflare.app_common.executors.client_api import attach
from nvflare.app_common.executors.client_api.arguments import ALL_EXECUTION_MODES, RULES
from nvflare.app_common.executors.client_api.migrate import main as migrate
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.fuel.utils.config_factory import ConfigFactory
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import BaseScriptRunner, ScriptRunner
from tests.unit_test.app_common.executors.job_harness import PROJECT

README = (PROJECT / "README.md").read_text()
GUIDE = (PROJECT / "docs" / "migration.md").read_text()
CONFIG = "config_fed_client"
WRONG_USAGE = 2  # of argparse


def blocks(text: str, language: str = "") -> list:
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def table(head: str) -> list:
    """The cells of README's table that begins with this head, row by row."""
    rows = README[README.index(head) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("import nvflare.client\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(folder) -> dict:
    return ConfigFactory.load_config(f"{CONFIG}.conf", [str(folder)]).to_dict()


@pytest.mark.parametrize("number", [0, 1])
def test_configs_before_are_moved_to_those_after(here, number):
    before, after = [block for block in blocks(README) if block.startswith("{\n  format")][2 * number : 2 * number + 2]
    for name, text in (("before", before), ("after", after)):
        (here / name).mkdir()
        (here / name / f"{CONFIG}.conf").write_text(text)
    assert migrate([str(here / "before"), "--in-place"]) == 0
    moved, shown = loaded(here / "before"), loaded(here / "after")
    arguments = shown["executors"][0]["executor"]["args"]
    ClientAPIExecutor(**arguments)
    if "command" in arguments:
        # By hand the new default is taken.
        assert moved["executors"][0]["executor"]["args"].pop("heartbeat_timeout") == 300.0
    for config in (moved, shown):
        # What is a default of the formats may be said or not.
        for key in ("params_exchange_format", "server_expected_format"):
            assert config.pop(key, "numpy") == "numpy"
        if config.get("params_transfer_type") == "FULL":
            del config["params_transfer_type"]
    assert moved == shown


def test_recipe_of_the_guide(here, capsys):
    exec(blocks(GUIDE, "python")[0], {})
    report = next(block for block in blocks(GUIDE) if "migrate jobs/fedavg --out" in block)
    command, *lines, _ = report.splitlines()
    assert migrate(command.split("client_api.migrate ")[1].split()) == 0
    assert capsys.readouterr().out.splitlines() == lines
    executor = json.loads("{" + blocks(GUIDE, "json")[0] + "}")["executor"]
    config = json.loads((here / "jobs" / "fedavg_migrated" / "app" / "config" / f"{CONFIG}.json").read_text())
    assert config["executors"][0]["executor"] == executor


def test_python_of_a_job_and_of_a_recipe(here):
    # Late: each worker of pytest-xdist collects this module, and one needs it.
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe

    job = FedJob(name="job", min_clients=2)
    recipe = NumpyFedAvgRecipe(name="recipe", model=[0.0], min_clients=1, num_rounds=1, train_script="train.py")
    with_runner = [block for block in blocks(README, "python") if "ClientAPIRunner(" in block]
    known = {"job": job, "recipe": recipe, "FrameworkType": FrameworkType}
    for block in with_runner:
        exec(block, known)
    assert len(with_runner) == 2
    job.export_job(str(here))
    recipe.export(str(here))
    arguments = {
        path.parts[-3]: json.loads(path.read_text())["executors"][0]["executor"]["args"]
        for path in here.glob(f"*/*/config/{CONFIG}.json")
    }
    launched = {"execution_mode": "external_process", "command": "python3 -u custom/train.py --epochs 1"}
    torchrun = {**launched, "command": "torchrun --nproc_per_node=2 custom/train.py --epochs 1"}
    in_process = {"execution_mode": "in_process", "task_script_path": "train.py"}
    asks = {"train_with_evaluation": True}
    assert arguments == {"app_site-1": in_process, "app_site-2": {**torchrun, **asks}, "app": launched}


def test_table_of_the_arguments():
    shown = {row[0].strip("`"): (row[1].strip("`"), row[2]) for row in table("| argument | default | valid in |")}
    parameters = dict(list(inspect.signature(ClientAPIExecutor.__init__).parameters.items())[1:])
    assert list(shown) == list(parameters)
    for name, (default, valid_in) in list(shown.items())[1:]:
        assert default.replace('"', "'") == repr(parameters[name].default)
        modes = RULES[name].modes
        assert valid_in.partition(" (")[0] == ("all" if modes == ALL_EXECUTION_MODES else ", ".join(modes))


def test_table_of_the_arguments_of_script_runner():
    shown = {name for row in table("| argument | `ClientAPIRunner` |") for name in re.findall(r"`(\w+)[`=]", row[0])}
    theirs = [inspect.signature(runner.__init__).parameters.keys() for runner in (ScriptRunner, BaseScriptRunner)]
    assert shown == set.union(*map(set, theirs)) - {"self"}


def texts_of(path: Path) -> list:
    """The texts in a source; of an f-string those between its values, each by itself."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [value for value in constants if isinstance(value, str)]


SYMPTOMS = [re.match("`(.*?)`", row[0])[1] for row in table("| symptom in the site's log |")]
VALUE = re.compile(r" ?\.\.\. ?|\B'|'\B|\d+(?:\.\d)?|train\.py|site-1|\w+Error|ClientAPIType")
NVFLARE = Path(nvflare.__file__).parent
# Ours, and those of others whose messages are in the table, too.
SAYING = [
    *Path(client_api.__file__).parent.rglob("*.py"),
    Path(enum.__file__),
    NVFLARE / "app_common" / "widgets" / "intime_model_selector.py",
    NVFLARE / "app_common" / "widgets" / "streaming.py",
    NVFLARE / "app_opt" / "lightning" / "api.py",
    NVFLARE / "client" / "config.py",
    NVFLARE / "fuel" / "utils" / "json_scanner.py",
]


@cache
def texts() -> set:
    """Without " in " and the like, by which any two texts could be linked. Late: each worker collects this module."""
    return {text for path in SAYING for text in texts_of(path) if not re.fullmatch(r"(?=.* ) ?\w{0,4} ?", text)}


def is_made_of_texts(part: str) -> bool:
    """Tells whether this is a piece of a text, or whole texts one behind the other, the last of which may go on."""
    reached = {0}
    for start in range(len(part)):
        if start in reached:
            reached.update(start + len(text) for text in texts() if part.startswith(text, start))
            if any(text.startswith(part[start:]) for text in texts()):
                return True
    return len(part) in reached or any(part.strip() in text for text in texts())


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_symptoms_of_troubleshooting(symptom):
    assert [part for part in VALUE.split(symptom) if not is_made_of_texts(part)] == []


def test_table_of_the_examples():
    shown = [re.findall(r"\]\(examples/(\w+)\)", row[0])[0] for row in table("| example | shows |")]
    assert sorted(shown) == sorted(path.parent.name for path in (PROJECT / "examples").glob("*/run.py"))


def test_exit_codes_of_attach():
    shown = re.search(r"The exit code tells what happened: (.*?)\. In a notebook", README, re.DOTALL)[1]
    codes = {int(code) for code in re.findall(r"\b\d+\b", shown)}
    assert codes == {value for name, value in vars(attach.ExitCode).items() if name.isupper()} | {WRONG_USAGE}
