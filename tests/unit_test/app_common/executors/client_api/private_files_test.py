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

"""Files with credentials: nobody else's, whole or not there, and found when the process that owns them has died."""

import errno
import json
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from nvflare.app_common.executors.client_api.job_owner import Owner
from nvflare.app_common.executors.client_api.session.private_files import (
    FileRefused,
    create_private,
    open_private,
    read_private,
    remove_orphans,
)

WRITE = """
import os, sys
from nvflare.app_common.executors.client_api.session.private_files import create_private
{before}
create_private(sys.argv[1], dict(secret="s"))
os.kill(os.getpid(), 9)
"""
# Moments in which the process that writes a file is killed.
MOMENTS = {
    "empty": "import json; json.dump = lambda *_: os.kill(os.getpid(), 9)",
    "written": "os.replace = lambda *_: os.kill(os.getpid(), 9)",
    "in_place": "",
}


def write_and_die(path, moment: str) -> None:
    command = [sys.executable, "-c", WRITE.format(before=MOMENTS[moment]), str(path)]
    assert subprocess.run(command).returncode == -signal.SIGKILL


def put(path, **content) -> None:
    create_private(str(path), content).close()


def test_what_is_written_is_private_and_names_its_owner(tmp_path):
    path = tmp_path / "file.json"
    put(path, secret="s")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with open_private(path) as file:
        content, owner = read_private(file)
    assert content["secret"] == "s" and owner == Owner.here() and not owner.is_gone
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("moment", MOMENTS)
def test_whatever_a_killed_process_has_left_is_removed(tmp_path, moment):
    write_and_die(tmp_path / "file.json", moment)
    (left,) = tmp_path.iterdir()
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    assert remove_orphans([tmp_path], ["file.json"]) == [left] and list(tmp_path.iterdir()) == []


def test_files_of_the_living_and_of_others_stay(tmp_path):
    here = Owner.here()
    put(tmp_path / "living.json")
    put(tmp_path / "another_host.json", job_owner=str(here._replace(start="1", boot="another", host="another")))
    put(tmp_path / "another_namespace.json", job_owner=str(here._replace(start="1", namespace="1")))
    put(tmp_path / "no_owner.json", job_owner="nobody")
    (tmp_path / ".client_api_x").touch()
    (tmp_path / f".client_api_x_{here}").touch()
    (tmp_path / "link.json").symlink_to("living.json")
    os.mkfifo(tmp_path / "pipe.json", 0o600)
    before = set(tmp_path.iterdir())
    assert remove_orphans([tmp_path, tmp_path / "none"], ["*.json"]) == [] and set(tmp_path.iterdir()) == before


def test_after_a_reboot_all_of_the_host_are_gone():
    initial = Owner.here()._replace(namespace="4026531836", boot="another")
    # In a container one cannot tell: another one of the same name may have been started elsewhere.
    assert initial.is_gone == (Owner.here().namespace == "4026531836")


def test_host_that_was_given_another_name_is_the_same():
    renamed = Owner.here()._replace(host="another")
    assert not renamed.is_gone and renamed._replace(start="1").is_gone


def test_process_without_descriptors_takes_nobody_for_gone():
    living, (soft, hard) = Owner.here(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        is_gone = living.is_gone
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not is_gone


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_process_that_cannot_be_looked_at_may_live(monkeypatch, error):
    dead, read_text = Owner.here()._replace(start="1"), Path.read_text

    def refuse(path, *args, **kwargs):
        if path.name == "stat":
            raise OSError(error, os.strerror(error))
        return read_text(path, *args, **kwargs)

    assert dead.is_gone
    monkeypatch.setattr(Path, "read_text", refuse)
    assert not dead.is_gone


def test_process_that_nobody_has_waited_for_is_gone():
    code = f"from {Owner.__module__} import Owner; print(Owner.here(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        owner = Owner.parse(process.stdout.readline().decode().strip())
        assert not owner.is_gone
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert owner.is_gone


@pytest.mark.parametrize(
    "text", [None, 5, "", "1", "1_2_3_4", "x_2_3_4_5", "²_2_3_4_5", "-1_2_3_4_5", "9" * 50 + "_2_3_4_5"]
)
def test_what_is_no_owner(text):
    with pytest.raises(ValueError):
        Owner.parse(text)


def test_owner_is_read_as_it_is_written():
    owner = Owner("1", "2", "3", "4", "a_host_with_underscores")
    assert Owner.parse(str(owner)) == owner


@pytest.mark.parametrize("name", ["group", "everybody"])
def test_folder_that_others_can_write(tmp_path, name):
    put(tmp_path / "file.json")
    tmp_path.chmod({"group": 0o770, "everybody": 0o707}[name])
    if os.getuid() == 0:
        os.chown(tmp_path, -1, 12345)  # a group that is not this user's own
        with pytest.raises(FileRefused, match="others can write folder"):
            open_private(tmp_path / "file.json")


def test_folder_whose_access_list_lets_others_write(tmp_path):
    put(tmp_path / "file.json")
    tmp_path.chmod(0o770)
    nobody = 0xFFFFFFFF
    # The owner, user 12345, the group, the most that both of them may, and everybody else.
    entries = [(1, 7, nobody), (2, 7, 12345), (4, 0, nobody), (16, 7, nobody), (32, 0, nobody)]
    access = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(tmp_path, "system.posix_acl_access", access)
    except (AttributeError, OSError) as e:
        pytest.skip(f"no access control lists here: {e}")
    with pytest.raises(FileRefused, match="others can write folder"):
        open_private(tmp_path / "file.json")


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "null", "[" * 100_000, json.dumps("x" * 1000), json.dumps({"secret": "s"})]
)
def test_malformed(tmp_path, content):
    path = tmp_path / "file.json"
    path.touch(0o600)
    path.write_text(content)
    with open_private(path) as file, pytest.raises(ValueError):
        read_private(file)


def test_ended_process_that_nobody_has_reaped_is_gone():
    code = "from nvflare.app_common.executors.client_api.job_owner import Owner; print(Owner.here())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        owner = Owner.parse(process.stdout.readline().strip())
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert owner.is_gone
