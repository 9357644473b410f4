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

"""The trainer's side of attach: the command line and what a scheduler sees of it, notebooks, residents, other ranks."""

import math
import os
import shlex
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from nvflare.app_common.executors.client_api.attach import ExitCode, pause_after, pause_of_look
from nvflare.app_common.executors.client_api.session.rendezvous import RENDEZVOUS_FILE
from tests.integration_test.client_api import attach_job
from tests.integration_test.client_api.attach_harness import RUNNER, attach_command, attached, rendezvous, workspace
from tests.unit_test.app_common.executors.client_api.process_watch import WITH_PROCESSES
from tests.unit_test.app_common.executors.job_harness import LIMIT, assert_failed, make_task, model_of

pytestmark = WITH_PROCESSES

LARGE = 512 * 1024
TRAIN = """
    import nvflare.client as flare
    flare.init()
    print("joined", flare.get_job_id())
    while flare.is_running():
        model = flare.receive()
        flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))
"""
# Waits for a line in the midst of its work.
HELD_UP = """
    import sys
    import nvflare.client as flare
    from nvflare.app_common.executors.client_api.arrays.memory import SharedMemory

    def wait_once(phase):
        if sys.argv[1:] == [phase]:
            sys.argv.pop()
            print("now", phase)
            sys.stdin.readline()

    seal_now = SharedMemory.seal

    def seal(memory, size):
        wait_once("sends")
        return seal_now(memory, size)

    SharedMemory.seal = seal
    flare.init()
    print("joined", flare.get_job_id())
    while flare.is_running():
        model = flare.receive()
        wait_once("trains")
        flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))
"""


@pytest.fixture
def run(processes):
    """Runs the command line to its end; returns exit code and output."""

    def run(*arguments: str) -> tuple:
        process = processes(sys.executable, "-m", RUNNER, *arguments)
        return process.exit_code(), process.output.text()

    return run


def script_of(folder: Path, text: str) -> str:
    path = folder / "train.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def assert_works(job) -> None:
    assert (model_of(job.execute("train", make_task(value=1.0))).params["w"] == 2.0).all()


class TestCommandLine:
    def test_help_tells_the_exit_codes(self, run):
        code, output = run("--help")
        assert code == 0
        for text in ("--workspace", "--follow", "Exit codes", "6 the job was lost"):
            assert text in " ".join(output.split())

    def test_nobody_to_attach_to(self, run, tmp_path):
        code, output = run("--workspace", str(tmp_path), "--wait", "0.1", "--", script_of(tmp_path, TRAIN))
        assert code == ExitCode.NOBODY
        assert f"waiting for a job in {tmp_path}" in output

    def test_rank_that_is_no_number(self, processes, tmp_path):
        process = processes(*attach_command(tmp_path, script_of(tmp_path, TRAIN)), RANK="first")
        assert process.exit_code() == 2
        assert "RANK must be a number, but is 'first'" in process.output.text()

    def test_refused_rendezvous(self, job, run, tmp_path):
        job.start(attached())
        rendezvous(job).chmod(0o644)
        code, output = run("--workspace", workspace(job), "--wait", "0.1", "--", script_of(tmp_path, TRAIN))
        assert code == ExitCode.REFUSED and "its mode is 644" in output

    def test_folder_with_a_name_for_the_terminal(self, run, tmp_path):
        folder = tmp_path / "site" / "\x1b]0;title\x07\nattach: all is well" / "app_site-1" / "config"
        folder.mkdir(parents=True)
        (folder / RENDEZVOUS_FILE).touch(0o644)
        code, output = run("--workspace", str(tmp_path), "--wait", "0.1", "--", script_of(tmp_path, TRAIN))
        assert code == ExitCode.REFUSED and "its mode is 644" in output
        assert "\x1b" not in output
        assert not any(line.startswith("attach: all is well") for line in output.splitlines())

    def test_tampered_secret(self, job, run, tmp_path):
        job.start(attached())
        content = rendezvous(job).read_text().replace('"secret": "', '"secret": "00')
        rendezvous(job).write_text(content)
        code, output = run("--workspace", workspace(job), "--wait", "0.1", "--", script_of(tmp_path, TRAIN))
        assert code == ExitCode.REJECTED and "wrong proof" in output

    @pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signal_ends_the_script_and_the_job_is_told(self, job, trainers, tmp_path, number, code):
        script = """
            import time
            import nvflare.client as flare
            flare.init()
            flare.receive()
            print("in task")
            while True:
                time.sleep(0.1)  # pause() would sleep for ever if the signal came just before it
        """
        job.start(attached())
        trainer = trainers(script_of(tmp_path, script))
        running = job.submit("train", make_task())
        trainer.output.wait_for("in task")
        trainer.signal(number)
        assert trainer.exit_code() == code
        assert_failed(running.result(LIMIT), "train.py has ended", number.name if code == 143 else "KeyboardInterrupt")


class TestSeveralJobs:
    def test_of_two_at_once_each_gets_a_trainer(self, job, job_factory, processes, tmp_path):
        second = job_factory("job-2")
        for a_job in (job, second):
            a_job.start(attached())
        command = attach_command(tmp_path, script_of(tmp_path, TRAIN))
        both = [processes(*command) for _ in range(2)]
        for a_job in (job, second):
            assert_works(a_job)
            a_job.end()
        assert [trainer.exit_code() for trainer in both] == [ExitCode.ENDED] * 2
        joined = {line for trainer in both for line in trainer.output.text().splitlines() if "joined" in line}
        assert joined == {"joined job-1", "joined job-2"}

    @pytest.mark.parametrize("options, expected", [(["--job", "job-2"], True), (["--site", "site-9"], False)])
    def test_job_and_site_are_chosen(self, job, job_factory, processes, tmp_path, options, expected):
        second = job_factory("job-2")
        for a_job in (job, second):
            a_job.start(attached())
        trainer = processes(*attach_command(tmp_path, script_of(tmp_path, TRAIN), wait=1.0, options=options))
        if expected:
            assert_works(second)
            second.end()
        assert trainer.exit_code() == (ExitCode.ENDED if expected else ExitCode.NOBODY)

    def test_resident_trainer_serves_one_after_another(self, job, processes, tmp_path):
        options = ["--follow"]
        trainer = processes(*attach_command(tmp_path, script_of(tmp_path, TRAIN), wait=2.0, options=options))
        for _ in range(3):  # of the same name, in the same place
            job.start(attached())
            assert_works(job)
            job.end()
        assert trainer.exit_code() == ExitCode.ENDED
        assert trainer.output.text().count("joined job-1") == 3

    def test_each_job_gets_its_turn_and_a_script_that_fails_its_pause(self, job, job_factory, processes, tmp_path):
        second = job_factory("job-2")
        for a_job in (job, second):
            a_job.start(attached(allow_reconnect=True))
        script = """
            import nvflare.client as flare
            flare.init()
            print("joined", flare.get_job_id())
            raise RuntimeError("no GPU")
        """
        trainer = processes(*attach_command(tmp_path, script_of(tmp_path, script), options=["--follow"]))
        trainer.output.wait_for("after 3 in vain")
        joined = [line for line in trainer.output.text().splitlines() if "joined" in line]
        assert joined == ["joined job-1", "joined job-2", "joined job-1"]

    @pytest.mark.parametrize("way", ["", "raise SystemExit(3)"])
    def test_script_that_does_not_join_has_its_pause(self, job, trainers, tmp_path, way):
        job.start(attached())
        command = attach_command(workspace(job), script_of(tmp_path, f"print('ran')\n{way}"), options=["--follow"])
        trainer = trainers(command=command)
        trainer.output.wait_for("after 2 in vain")
        assert trainer.output.text().splitlines().count("ran") == 2

    @pytest.mark.parametrize("in_vain, pause", [(0, 1.0), (1, 2.0), (3, 8.0), (6, 60.0), (10_000, 60.0)])
    def test_pauses_grow_to_a_minute(self, in_vain, pause):
        assert pause_after(in_vain, 0.0) == pause
        assert pause_after(in_vain, 0.25) == pause - 0.25
        assert pause_after(in_vain, 100.0) == 0.0

    @pytest.mark.parametrize("took, left, pause", [(0.0, math.inf, 0.2), (0.5, math.inf, 5.0), (0.5, 3.0, 3.0)])
    def test_slow_file_system_is_left_alone_for_longer(self, took, left, pause):
        assert pause_of_look(took, left) == pause


class TestJobThatIsKilled:
    @pytest.fixture
    def killed_job(self, federation, processes, tmp_path):
        command = [sys.executable, "-m", attach_job.__name__, federation.url, str(tmp_path / "killed")]
        job = processes(*command)
        job.output.wait_for("the job has started")
        return job

    def kill(self, job) -> None:
        job.signal(signal.SIGKILL)
        job.exit_code()

    @pytest.mark.parametrize("phase", ["waits", "trains", "sends"])
    def test_resident_trainer_goes_on(self, killed_job, job, processes, tmp_path, phase):
        options = ["--follow"]
        trainer = processes(*attach_command(tmp_path, script_of(tmp_path, HELD_UP), phase, options=options))
        trainer.output.wait_for(f"joined {attach_job.KILLED_JOB}")
        if phase != "waits":
            killed_job.type(str(LARGE))
            trainer.output.wait_for(f"now {phase}")
        self.kill(killed_job)
        trainer.type("\n")  # for the next job, too
        trainer.output.wait_for("the job was lost")
        if phase != "waits":
            assert "AgentClosed: the result of task 'train' did not reach the job" in trainer.output.text()
        job.start(attached())
        trainer.output.wait_for("joined job-1")
        assert_works(job)

    @pytest.mark.parametrize("step", [-2 * LIMIT, 3600.0])
    def test_trainer_whose_clock_is_set_notices(self, killed_job, processes, tmp_path, step):
        script = f"""
            import sys, time
            import nvflare.client as flare
            flare.init()
            print("joined")
            sys.stdin.readline()
            time.time = lambda read=time.time: read() + {step}
            flare.receive()
        """
        trainer = processes(*attach_command(tmp_path, script_of(tmp_path, script)))
        trainer.output.wait_for("joined")
        trainer.type("now")
        self.kill(killed_job)
        assert trainer.exit_code() == ExitCode.LOST

    def test_its_rendezvous_is_recognised(self, killed_job, run, tmp_path):
        self.kill(killed_job)
        code, output = run("--workspace", str(tmp_path), "--wait", "0.1", "--", script_of(tmp_path, TRAIN))
        assert code == ExitCode.REFUSED
        assert f"its job's process {killed_job.process.pid} is gone" in output


class TestRealUse:
    def test_notebook_serves_two_jobs_in_a_row(self, job, processes):
        notebook = processes(sys.executable, "-i", "-q")
        notebook.type("import nvflare.client as flare")
        notebook.type("from nvflare.app_common.executors.client_api import attach")
        for number in range(2):  # of the same name, in the same place
            job.start(attached())
            notebook.type(f"flare.init(config_file=attach.wait_for({workspace(job)!r}))")
            notebook.type("model = flare.receive()")
            notebook.type('flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))')
            assert_works(job)
            job.end()
            notebook.type(f"print('job {number} runs', flare.is_running())")
            notebook.output.wait_for(f"job {number} runs False")
        notebook.type("exit()")
        assert notebook.exit_code() == 0

    def test_notebook_that_goes_on_leaves_the_job(self, job, job_factory, processes, tmp_path):
        notebook = processes(sys.executable, "-i", "-q")
        notebook.type("import nvflare.client as flare")
        notebook.type("from nvflare.app_common.executors.client_api import attach")
        job.start(attached())
        notebook.type(f"flare.init(config_file=attach.wait_for({workspace(job)!r})); flare.receive() and None")
        running = job.submit("train", make_task())
        second = job_factory("job-2").start(attached())
        notebook.type(f"flare.init(config_file=attach.wait_for({workspace(second)!r}))")
        assert_failed(running.result(LIMIT), "the trainer has gone on to another job")
        notebook.type("model = flare.receive()")
        notebook.type('flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))')
        assert_works(second)

    def test_command_that_calls_flare_is_told_what_to_do(self, job, processes, tmp_path):
        script = """
            import subprocess
            import sys
            import nvflare.client as flare
            flare.init()
            model = flare.receive()
            code = "import nvflare.client as flare; flare.init()"
            child = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
            flare.send(flare.FLModel(params=model.params, meta={"stderr": child.stderr}))
        """
        job.start(attached())
        processes(*attach_command(tmp_path, job.script(script)), cwd=job.custom_dir)
        told = model_of(job.execute("train", make_task())).meta["stderr"]
        assert f"start them by torchrun ... -m {RUNNER}" in told

    def test_claim_ends_with_its_process_and_not_with_that_ones_children(self, job, processes):
        script = f"""
            import os
            from nvflare.app_common.executors.client_api import attach
            attach.wait_for({workspace(job)!r}, timeout={LIMIT})
            if os.fork():
                os._exit(0)
            print("lives", flush=True)
            input()
        """
        job.start(attached())
        child = processes(sys.executable, "-c", textwrap.dedent(script))
        child.output.wait_for("lives")
        processes(*attach_command(workspace(job), job.custom_dir / job.script(TRAIN)))
        assert (model_of(job.execute("train", make_task())).params["w"] == 1).all()
        child.type("")

    def test_scheduler_starts_it_later_elsewhere_and_in_another_environment(self, job, site_log, processes, tmp_path):
        job.start(attached())
        (record,) = site_log.find("to start one: ")
        command = record.getMessage().partition("to start one: ")[2]
        command = command.replace("SCRIPT.py [ARGS]", shlex.quote(script_of(tmp_path, TRAIN)))
        path = Path(sys.executable).parent
        sbatch = processes("env", "-i", f"PATH={path}:/bin", "HOME=/", "sh", "-c", f"cd /; read line; exec {command}")
        running = job.submit("train", make_task(value=1.0))
        sbatch.type("the node is free")
        assert (model_of(running.result(LIMIT)).params["w"] == 2.0).all()
        job.end()
        assert sbatch.exit_code() == ExitCode.ENDED

    def test_ranks_of_a_launch_serve_one_job_and_only_rank_0_connects(self, job, job_factory, processes, tmp_path):
        script = """
            import os, sys
            import nvflare.client as flare
            flare.init()
            flare.init(os.environ["RANK"])  # as a callback of Lightning's does
            print("rank", os.environ["RANK"], flare.get_job_id(), flare.get_site_name())
            try:
                flare.is_train()
            except RuntimeError as error:
                print(error)
            if os.environ["RANK"] == "0":
                model = flare.receive()
                flare.send(flare.FLModel(params={"w": model.params["w"] + 1}))
                open(sys.argv[1]).read()  # as ranks wait for one another
            else:
                open(sys.argv[1], "w").close()
        """
        launches = []
        for port in ("29500", "29501"):
            os.mkfifo(tmp_path / port)
            command = attach_command(tmp_path, script_of(tmp_path, script), str(tmp_path / port))
            launches.append([processes(*command, RANK=rank, MASTER_PORT=port) for rank in ("1", "0")])
        jobs = [job, job_factory("job-2")]
        for a_job in jobs:
            a_job.start(attached())
            assert_works(a_job)
        for ranks in launches:
            assert [rank.exit_code() for rank in ranks] == [ExitCode.ENDED] * 2
            assert "only rank 0 can call is_train" in ranks[0].output.text()
        served = [
            {line.split()[2] for rank in ranks for line in rank.output.text().splitlines() if line.startswith("rank ")}
            for ranks in launches
        ]
        assert sorted(served, key=str) == [{"job-1"}, {"job-2"}]
