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

from nvflare.app_common.executors.client_api.job_owner import Owner
from nvflare.app_common.executors.client_api.session.bootstrap import write_bootstrap
from nvflare.app_common.executors.client_api.session.private_files import FileRefused
from nvflare.app_common.executors.client_api.session.rendezvous import (
    RENDEZVOUS_FILE,
    Claim,
    find_files,
    find_ranks_file,
    ranks_file,
)

CONTENT = {"TASK_EXCHANGE": {"pipe": {"ARG": {"secret": "s"}}}}


def folder_of(root: Path, job: str, site: str) -> Path:
    folder = root / job / f"app_{site}" / "config"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(root: Path, job: str = "job-1", site: str = "site-1", name: str = RENDEZVOUS_FILE, **content) -> Path:
    path = folder_of(root, job, site) / name
    write_bootstrap(str(path), {**CONTENT, **content})
    return path


@pytest.fixture
def ended_process() -> dict:
    """The description of an owner that has ended."""
    code = "from nvflare.app_common.executors.client_api.job_owner import Owner; print(Owner.here())"
    owner = Owner.parse(subprocess.check_output([sys.executable, "-c", code], text=True).strip())
    return {"job_owner": str(owner)}


class TestFind:
    def test_in_a_workspace_of_one_site_or_of_several_the_oldest_first(self, tmp_path):
        paths = [write(tmp_path / "site-1", "job-1"), write(tmp_path / "site-2", "job-2", "site-2")]
        for age, path in enumerate(reversed(paths)):
            os.utime(path, (age, age))
        assert find_files(str(tmp_path), RENDEZVOUS_FILE) == paths[::-1]
        assert find_files(str(tmp_path / "site-1"), RENDEZVOUS_FILE) == paths[:1]
        assert find_files(str(tmp_path / "site-1" / "job-1"), RENDEZVOUS_FILE) == paths[:1]

    def test_other_folders_may_have_a_name_as_those_of_apps(self, tmp_path):
        path = write(tmp_path / "app_one" / "site-1")
        (tmp_path / "app_logs").mkdir()
        assert find_files(str(tmp_path), RENDEZVOUS_FILE) == [path]

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


class TestRanks:
    @pytest.fixture(autouse=True)
    def launch(self, monkeypatch):
        """Makes this process one of a launch."""

        def launch(port: int) -> None:
            monkeypatch.setenv("MASTER_PORT", str(port))

        launch(29500)
        return launch

    def test_those_of_a_launch_find_the_job_of_their_rank_0(self, tmp_path, launch):
        claims = [Claim(write(tmp_path, f"job-{number}")) for number in range(3)]
        for port, claim in zip((1, 2), claims):
            launch(port)
            claim.tell_ranks()
        for port, claim in zip((1, 2), claims):
            launch(port)
            path, identity = find_ranks_file(str(tmp_path))
            assert path.parent == claim.path.parent
            assert find_ranks_file(str(tmp_path), done=[identity]) is None
            claim.close()
            assert find_ranks_file(str(tmp_path)) is None
        claims[-1].close()

    @pytest.mark.parametrize("address, is_same", [("127.0.0.1", False), ("localhost", False), ("node-1", True)])
    def test_launches_of_two_hosts_may_have_the_same_address(self, launch, monkeypatch, address, is_same):
        """That of torchrun's default, where each host is meant by itself."""
        monkeypatch.setenv("MASTER_ADDR", address)
        here = ranks_file()
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        assert (ranks_file() == here) is is_same

    def test_no_secret_is_told(self, tmp_path):
        claim = Claim(write(tmp_path, AUTH_TOKEN="t"))
        claim.tell_ranks()
        path, _ = find_ranks_file(str(tmp_path))
        assert set(json.loads(path.read_text())) == {"job_owner", "TASK_EXCHANGE"}
        assert json.loads(path.read_text())["TASK_EXCHANGE"] == {}
        claim.close()
        assert not path.exists()

    def test_what_a_killed_rank_0_has_left_is_not_taken(self, tmp_path):
        path = write(tmp_path)
        code = "import pathlib, os; from nvflare.app_common.executors.client_api.session.rendezvous import Claim; "
        code += f"c = Claim(pathlib.Path({str(path)!r})); c.tell_ranks(); os.kill(os.getpid(), 9)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == -9
        assert path.with_name(ranks_file()).exists() and find_ranks_file(str(tmp_path)) is None

    @pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o644), lambda path: path.parent.chmod(0o777)])
    def test_what_others_can_write_or_replace_is_not_taken(self, tmp_path, spoil):
        claim = Claim(write(tmp_path))
        claim.tell_ranks()
        spoil(claim.path.with_name(ranks_file()))
        assert find_ranks_file(str(tmp_path)) is None
        claim.close()

    def test_pipe_in_its_place_holds_nobody_up(self, tmp_path):
        os.mkfifo(folder_of(tmp_path, "job-1", "site-1") / ranks_file(), 0o600)
        assert find_ranks_file(str(tmp_path)) is None


class TestClaim:
    def test_content(self, tmp_path):
        claim = Claim(write(tmp_path, name=RENDEZVOUS_FILE, extra=1))
        assert claim.content["extra"] == 1
        claim.close()

    def test_is_exclusive_and_can_be_given_up(self, tmp_path):
        path = write(tmp_path)
        first = Claim(path)
        with pytest.raises(BlockingIOError):
            Claim(path)
        first.close()
        Claim(path).close()

    def test_is_gone_with_its_process(self, tmp_path):
        path = write(tmp_path)
        code = "import pathlib, os; from nvflare.app_common.executors.client_api.session.rendezvous import Claim; "
        code += f"c = Claim(pathlib.Path({str(path)!r})); os.kill(os.getpid(), 9)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == -9
        Claim(path).close()

    def test_removed_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Claim(tmp_path / RENDEZVOUS_FILE)

    def refuse(self, path: Path, text: str) -> None:
        with pytest.raises(FileRefused) as caught:
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
        pid = Owner.parse(ended_process["job_owner"]).pid
        self.refuse(write(tmp_path, **ended_process), f"its job's process {pid} is gone")

    @pytest.mark.parametrize("elsewhere", [{"host": "another", "boot": "another"}, {"namespace": "another"}])
    def test_of_a_job_on_another_host_or_in_another_namespace_may_be_alive(self, tmp_path, ended_process, elsewhere):
        owner = Owner.parse(ended_process["job_owner"])._replace(**elsewhere)
        Claim(write(tmp_path, job_owner=str(owner))).close()

    @pytest.mark.parametrize("folder", range(4))
    def test_in_a_folder_that_others_can_write(self, tmp_path, folder):
        path = write(tmp_path)
        open_one = [path.parent, *path.parents][folder]
        open_one.chmod(0o777)
        self.refuse(path, f"others can write folder {open_one} (its mode is 777)")

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
    def test_in_a_folder_of_another_user(self, tmp_path):
        path = write(tmp_path)
        os.chown(path.parents[1], 12345, -1)
        self.refuse(path, f"folder {path.parents[1]} belongs to user 12345")

    def test_below_a_sticky_folder_as_tmp_is(self, tmp_path):
        path = write(tmp_path)
        path.parents[1].chmod(0o1777)
        Claim(path).close()
        path.parent.chmod(0o1777)  # there others can put files beside it
        self.refuse(path, "others can write")

    def test_by_way_of_a_link_it_is_that_file_from_then_on(self, tmp_path):
        write(tmp_path / "real")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        claim = Claim(find_files(str(tmp_path / "link"), RENDEZVOUS_FILE)[0])
        assert claim.path.is_relative_to(tmp_path / "real")
        claim.close()

    def test_huge(self, tmp_path):
        path = write(tmp_path)
        os.truncate(path, 2 << 20)
        self.refuse(path, "bytes")

    def test_nothing_is_left_open_by_a_refusal(self, tmp_path):
        path = write(tmp_path)
        path.chmod(0o644)
        self.refuse(path, "mode")
        path.chmod(0o600)
        Claim(path).close()
