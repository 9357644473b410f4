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

"""What attach does in its own process, without a job: how it reads its command line, and what it leaves of a script."""

import signal
import subprocess
import sys
import textwrap

import pytest

from nvflare.app_common.executors.client_api import attach
from nvflare.app_common.executors.client_api.attach import ExitCode, NobodyToAttachTo, wait_for
from nvflare.app_common.executors.client_api.session import handshake
from nvflare.app_common.executors.client_api.session.bootstrap import write_bootstrap
from nvflare.app_common.executors.client_api.session.rendezvous import RENDEZVOUS_FILE
from nvflare.client import api_context
from nvflare.client.api_spec import CLIENT_API_TYPE_KEY
from nvflare.fuel.utils.config_service import ConfigService


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command line in this process, in the folder of the test; returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attach, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(api_context, "DEFAULT_CONFIG", api_context.DEFAULT_CONFIG)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv(CLIENT_API_TYPE_KEY, "")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lambda *arguments: attach.main(["--workspace", "sites", "--wait", "0", *arguments])
    for number, handler in handlers.items():
        signal.signal(number, handler)
    ConfigService.reset()
    with pytest.raises(NobodyToAttachTo):  # who waits for another job gives up the claim of the last one
        wait_for(str(tmp_path / "nowhere"), timeout=0)


@pytest.fixture
def open_jobs(tmp_path):
    """Writes what jobs of these names wait with, as they do, for a trainer."""

    def write(*jobs: str) -> list:
        paths = [tmp_path / "sites" / "site-1" / job / "app_site-1" / "config" / RENDEZVOUS_FILE for job in jobs]
        for path in paths:
            path.parent.mkdir(parents=True)
            write_bootstrap(str(path), {"TASK_EXCHANGE": {"pipe": {"ARG": {"secret": "s"}}}})
        return paths

    return write


def write_script(folder, text: str) -> None:
    (folder / "train.py").write_text(textwrap.dedent(text))


@pytest.mark.parametrize(
    "arguments, text",
    [
        ([], "--workspace"),
        (["--workspace", "."], "the script is missing"),
        (["--workspace", ".", "--wait", "nan"], "--wait: must be a number of seconds, 0 or more, but is 'nan'"),
        (["--workspace", ".", "--wait", "soon"], "--wait: must be a number of seconds, 0 or more, but is 'soon'"),
        (["--workspace", ".", "--wait=-1"], "--wait: must be a number of seconds, 0 or more, but is '-1'"),
        (["--workspace", ".", "--", "no_such.py"], "there is no script 'no_such.py'"),
        (["--workspace", "", "--", __file__], "--workspace: must not be empty, but is ''"),
        (["--workspace", ".", "--job", "", "--", __file__], "--job: must not be empty, but is ''"),
        (["--workspace", ".", "--site", "", "--", __file__], "--site: must not be empty, but is ''"),
    ],
)
def test_wrong_usage(capsys, arguments, text):
    with pytest.raises(SystemExit) as caught:
        attach.main(arguments)
    assert caught.value.code == 2 and text in capsys.readouterr().err


@pytest.mark.parametrize("timeout", [float("nan"), -1, "1"])
def test_timeout_that_is_no_time(tmp_path, timeout):
    with pytest.raises(
        ValueError, match=f"timeout must be a number of seconds, 0 or more, or None, but is {timeout!r}"
    ):
        wait_for(str(tmp_path), timeout=timeout)


@pytest.mark.parametrize("name", ["workspace", "job", "site"])
def test_what_is_awaited_cannot_be_empty(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must not be empty, but is ''"):
        wait_for(**{"workspace": str(tmp_path), "timeout": 0, name: ""})


def test_what_is_awaited_is_named(tmp_path, capsys):
    with pytest.raises(NobodyToAttachTo, match=f"no rendezvous of job j-1 of site s-2 in {tmp_path} in 0 s"):
        wait_for(str(tmp_path), "j-1", "s-2", timeout=0)


@pytest.mark.parametrize("make, is_told", [(lambda path: path.mkdir(), False), (lambda path: path.touch(), True)])
def test_workspace_that_is_no_folder_is_told_and_awaited(tmp_path, capsys, make, is_told):
    workspace = tmp_path / "workspace"
    make(workspace)
    with pytest.raises(NobodyToAttachTo):
        wait_for(str(workspace), timeout=0)
    assert (f"{workspace} is not there yet" in capsys.readouterr().err) is is_told


@pytest.mark.parametrize("number, code", [("SIGINT", ExitCode.INTERRUPTED), ("SIGTERM", ExitCode.TERMINATED)])
def test_signal_while_it_waits_for_a_job(run, tmp_path, monkeypatch, number, code):
    write_script(tmp_path, "")
    monkeypatch.setattr(attach, "pause_of_look", lambda *_: signal.raise_signal(signal.Signals[number]))
    with pytest.raises(SystemExit) as caught:
        sys.exit(run("--wait", "60", "--", "train.py"))
    assert caught.value.code == code


def test_script_runs_as_if_it_was_started_alone(run, open_jobs, tmp_path, capsys):
    script = """
        import sys
        import neighbour
        print(__name__, __file__, sys.argv, sys.path[0])
        sys.exit("no data")
    """
    (tmp_path / "neighbour.py").touch()
    write_script(tmp_path, script)
    open_jobs("job-1")
    alone = subprocess.run([sys.executable, "train.py", "--rate", "1"], capture_output=True, text=True)
    assert run("--", "train.py", "--rate", "1") == ExitCode.FAILED
    output = capsys.readouterr()
    assert output.out == alone.stdout and "train.py" in output.out
    assert alone.stderr == "no data\n" and alone.stderr in output.err


def test_script_that_does_not_join_is_told(run, open_jobs, tmp_path, capsys):
    write_script(tmp_path, "")
    open_jobs("job-1")
    assert run("--", "train.py") == ExitCode.ENDED
    assert "without a call of flare.init(), and the job still waits for a trainer" in capsys.readouterr().err


def test_next_run_finds_the_process_as_the_first_one_did(run, open_jobs, tmp_path, capsys):
    script = """
        import os
        import signal
        import sys
        from nvflare.client import api_context
        os.remove(api_context.DEFAULT_CONFIG)  # as the job does when it has its trainer
        print(sys.argv, sys.path, os.getcwd(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
        sys.argv.append("--more")
        sys.path.append("more")
        os.chdir("/")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
    """
    write_script(tmp_path, script)
    open_jobs("job-1", "job-2")
    assert run("--follow", "--", "train.py") == ExitCode.ENDED
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


@pytest.mark.parametrize(
    "error, code, then",
    [("Rejected", ExitCode.REJECTED, ExitCode.NOBODY), ("HandshakeError", ExitCode.UNREACHED, ExitCode.UNREACHED)],
)
def test_job_that_was_not_reached_is_tried_again_and_one_that_rejects_is_not(
    run, open_jobs, tmp_path, error, code, then
):
    write_script(tmp_path, f"import {handshake.__name__} as handshake\nraise handshake.{error}('it did not join')")
    open_jobs("job-1")
    assert [run("--", "train.py") for _ in range(2)] == [code, then]


@pytest.mark.parametrize(
    "ends, way, code",
    [
        (True, "flare.init()", ExitCode.LOST),
        (True, "sys.exit(3)", ExitCode.LOST),
        (True, "sys.exit(0)", ExitCode.ENDED),
        (False, "sys.exit(3)", ExitCode.FAILED),
    ],
)
def test_job_that_ends_before_the_script_joins_is_lost(run, open_jobs, tmp_path, capsys, ends, way, code):
    script = f"""
        import os, sys
        import nvflare.client as flare
        if {ends}:
            os.remove(flare.api_context.DEFAULT_CONFIG)
        {way}
    """
    write_script(tmp_path, script)
    open_jobs("job-1")
    assert run("--", "train.py") == code
    told = "the job had ended, or got another trainer, before the script called flare.init()"
    assert (told in capsys.readouterr().err) is (code == ExitCode.LOST)
