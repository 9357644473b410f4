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

"""Every example runs by its one command, and does what it says."""

import importlib.util
import os
import signal
import subprocess
import sys

import pytest

from tests.unit_test.app_common.executors.job_harness import PROJECT

EXAMPLES = PROJECT / "examples"
# Seconds after which an example is taken to hang.
LIMIT = 300

pytestmark = pytest.mark.watchdog(LIMIT + 30)

# name: (arguments, modules that it needs, what it says at its end)
CASES = {
    "hello_numpy": (["--rounds", "1", "--clients", "1"], [], "results:"),
    "hello_pt": (["--rounds", "2", "--clients", "1"], ["torch"], "accuracy of the global model"),
    "torchrun": (["--rounds", "1"], ["torch"], "weights [["),
    "lightning": ([], ["torch", "pytorch_lightning"], "weights [["),
    "attach": (["--rounds", "1"], [], "both jobs have ended"),
    "slurm": (["--rounds", "1"], [], "was preempted and restarted: round 0 went on at step"),
    "lora": (["--rounds", "2"], ["torch", "transformers", "peft"], "16384 of 94528 weights travelled"),
    "tracking": (["--rounds", "2"], ["tensorboard"], "all records have arrived"),
}


def test_every_example_is_run():
    assert {path.parent.name for path in EXAMPLES.glob("*/run.py")} == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_example(name, tmp_path):
    arguments, modules, last_words = CASES[name]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    command = [sys.executable, str(EXAMPLES / name / "run.py"), *arguments, "--workspace", str(tmp_path / "demo")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, start_new_session=True
    ) as process:
        try:
            output = process.communicate(timeout=LIMIT)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{name} hangs:\n{process.communicate()[0]}")
    assert process.returncode == 0, output
    assert last_words in output
    assert "Traceback" not in output
    # No rank of a trainer ends in an error when the job has ended, in whatever log that would be.
    logs = [path for pattern in ("*.log", "*.txt", "*.out") for path in (tmp_path / "demo").rglob(pattern)]
    assert logs
    assert [path for path in logs if "Traceback" in path.read_text()] == []
    # What travels with the job is in its workspace, and nothing else is written.
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
