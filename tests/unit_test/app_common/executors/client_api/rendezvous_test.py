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

"""The rendezvous file: which one is found, which one is refused, and that a claim is exclusive."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nvflare.app_common.executors.client_api.bootstrap import write_bootstrap
from nvflare.app_common.executors.client_api.rendezvous import (
    RANKS_FILE,
    RENDEZVOUS_FILE,
    Claim,
    RendezvousGone,
    RendezvousRefused,
    RendezvousTaken,
    describe_owner,
    find_files,
    find_ranks_file,
)

CONTENT = {"TASK_EXCHANGE": {"pipe": {"ARG": {"secret": "s"}}}}


def folder_of(root: Path, job: str, site: str) -> Path:
    folder = root / job / f"app_{site}" / "config"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(root: Path, job: str = "job-1", site: str = "site-1", name: str = RENDEZVOUS_FILE, **content) -> Path:
    path = folder_of(root, job, site) / name
    write_bootstrap(str(path), {**CONTENT, **describe_owner(), **content})
    return path


@pytest.fixture
def ended_process() -> dict:
    """The description of an owner that has ended."""
    code = "import json; from nvflare.app_common.executors.client_api.rendezvous import describe_owner as d; "
    return json.loads(subprocess.check_output([sys.executable, "-c", code + "print(json.dumps(d()))"]))


class TestFind:
    def test_in_a_workspace_of_one_site_or_of_several_the_oldest_first(self, tmp_path):
        paths = [write(tmp_path / "site-1", "job-1"), write(tmp_path / "site-2", "job-2", "site-2")]
        for age, path in enumerate(reversed(paths)):
            os.utime(path, (age, age))
        assert find_files(str(tmp_path), RENDEZVOUS_FILE) == paths[::-1]
        assert find_files(str(tmp_path / "site-1"), RENDEZVOUS_FILE) == paths[:1]
        assert find_files(str(tmp_path / "site-1" / "job-1"), RENDEZVOUS_FILE) == paths[:1]

    @pytest.mark.parametrize("options", [{"job": "job-2"}, {"site": "site-2"}, {"job": "job-2", "site": "site-2"}])
    def test_by_job_and_site(self, tmp_path, options):
        write(tmp_path)
        wanted = write(tmp_path, "job-2", "site-2")
        assert find_files(str(tmp_path), RENDEZVOUS_FILE, **options) == [wanted]
        assert find_files(str(tmp_path), RENDEZVOUS_FILE, **{**options, "job": "job-3"}) == []

    def test_nothing_elsewhere(self, tmp_path):
        target = write(tmp_path / "elsewhere").parents[1]
        job = tmp_path / "workspace" / "job-1"
        job.mkdir(parents=True)
        (job / "app_site-1").symlink_to(target)
        (job / RENDEZVOUS_FILE).write_text("{}")
        assert find_files(str(tmp_path / "workspace"), RENDEZVOUS_FILE) == []
        assert find_files(str(tmp_path / "no_such_folder"), RENDEZVOUS_FILE) == []

    def test_ranks_file_of_the_last_job_that_is_still_there(self, tmp_path, ended_process):
        old, new = write(tmp_path, "job-1", name=RANKS_FILE), write(tmp_path, "job-2", name=RANKS_FILE)
        os.utime(old, (1, 1))
        write(tmp_path, "job-3", name=RANKS_FILE, **ended_process)
        (folder_of(tmp_path, "job-4", "site-1") / RANKS_FILE).write_text("{")
        assert find_ranks_file(str(tmp_path)) == new


class TestClaim:
    def test_content(self, tmp_path):
        claim = Claim(write(tmp_path, name=RENDEZVOUS_FILE, extra=1))
        assert claim.content["extra"] == 1
        claim.close()

    def test_is_exclusive_and_can_be_given_up(self, tmp_path):
        path = write(tmp_path)
        first = Claim(path)
        with pytest.raises(RendezvousTaken):
            Claim(path)
        first.close()
        Claim(path).close()

    def test_is_gone_with_its_process(self, tmp_path):
        path = write(tmp_path)
        code = "import pathlib, os; from nvflare.app_common.executors.client_api.rendezvous import Claim; "
        code += f"c = Claim(pathlib.Path({str(path)!r})); os.kill(os.getpid(), 9)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == -9
        Claim(path).close()

    def test_removed_file(self, tmp_path):
        with pytest.raises(RendezvousGone):
            Claim(tmp_path / RENDEZVOUS_FILE)

    def refuse(self, path: Path, text: str) -> None:
        with pytest.raises(RendezvousRefused) as caught:
            Claim(path)
        assert str(path) in str(caught.value) and text in str(caught.value)

    def test_symlink(self, tmp_path):
        link = folder_of(tmp_path, "job-2", "site-1") / RENDEZVOUS_FILE
        link.symlink_to(write(tmp_path))
        self.refuse(link, "symbolic link")

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
    def test_readable_by_others(self, tmp_path, mode):
        path = write(tmp_path)
        path.chmod(mode)
        self.refuse(path, f"its mode is {mode:o}")

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
    def test_of_another_user(self, tmp_path):
        path = write(tmp_path)
        os.chown(path, 12345, -1)
        self.refuse(path, "it belongs to user 12345")

    def test_no_regular_file(self, tmp_path):
        path = folder_of(tmp_path, "job-1", "site-1") / RENDEZVOUS_FILE
        os.mkfifo(path, 0o600)
        self.refuse(path, "no regular file")

    @pytest.mark.parametrize("change", [lambda text: text[:-10], lambda text: "", lambda text: "[]", lambda text: "{}"])
    def test_truncated(self, tmp_path, change):
        path = write(tmp_path)
        path.write_text(change(path.read_text()))
        self.refuse(path, "truncated or no rendezvous")

    def test_tampered(self, tmp_path):
        self.refuse(write(tmp_path, TASK_EXCHANGE={"pipe": []}), "no rendezvous")

    def test_of_a_job_that_is_gone(self, tmp_path, ended_process):
        self.refuse(write(tmp_path, **ended_process), f"its job's process {ended_process['job_pid']} is gone")

    def test_of_a_job_on_another_host_may_be_alive(self, tmp_path, ended_process):
        Claim(write(tmp_path, **{**ended_process, "job_host": "another"})).close()

    def test_nothing_is_left_open_by_a_refusal(self, tmp_path):
        path = write(tmp_path)
        path.chmod(0o644)
        self.refuse(path, "mode")
        path.chmod(0o600)
        Claim(path).close()
