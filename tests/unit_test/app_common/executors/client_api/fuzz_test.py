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

"""What comes from outside, made up at random: it is refused, and nothing breaks."""

import fcntl
import json
import shutil

import pytest

from nvflare.app_common.executors.client_api.job_owner import Owner
from nvflare.app_common.executors.client_api.migrate import NOT_MIGRATED, OK, main
from nvflare.app_common.executors.client_api.session.handshake import (
    Handshake,
    HandshakeError,
    new_session_keys,
    unpack,
)
from nvflare.app_common.executors.client_api.session.private_files import FileRefused, remove_orphans
from nvflare.app_common.executors.client_api.session.rendezvous import (
    RENDEZVOUS_FILE,
    Claim,
    find_ranks_file,
    ranks_file,
)
from nvflare.app_common.executors.client_api.session.seals import SealBroken, Seals
from tests.unit_test.app_common.executors.client_api.fuzzing import (
    FUZZ_WATCHDOG,
    fuzzed,
    json_data,
    packed,
    spoiled,
    st,
)
from tests.unit_test.app_common.executors.client_api.migration_parts import JOBS

KEYS = new_session_keys()

pytestmark = FUZZ_WATCHDOG


class TestHandshake:
    handshake = Handshake(KEYS["secret"], KEYS["challenge"], "job", "trainer")
    hello = handshake.hello()

    @fuzzed(data=st.binary(max_size=5000) | json_data.map(packed) | spoiled(hello).map(packed))
    def test_hello_is_refused(self, data):
        assert self.handshake.find_fault(unpack(data))

    @fuzzed(data=st.binary(max_size=5000) | json_data.map(packed) | spoiled(handshake.welcome(hello)).map(packed))
    def test_answer_is_refused(self, data):
        answer = unpack(data)
        if answer and answer.get("proof") == self.handshake.welcome(self.hello)["proof"] and "reject" not in answer:
            return  # something was added to a good answer
        with pytest.raises(HandshakeError):
            self.handshake.check_answer(answer, self.hello)


class TestSeals:
    @staticmethod
    def end(is_trainer: bool) -> Seals:
        return TestHandshake.handshake.seals(TestHandshake.hello, is_trainer)

    seal = end(True).seal(b"head", b"payload")
    answer = end(False).seal_answer(seal, b"OK")

    def changed(good: bytes):
        place = st.tuples(st.integers(0, len(good) - 1), st.integers(1, 255))
        return place.map(lambda at: good[: at[0]] + bytes([good[at[0]] ^ at[1]]) + good[at[0] + 1 :])

    no_seals = st.binary(max_size=100) | json_data

    @fuzzed(seal=no_seals | changed(seal), head=st.binary(max_size=10), payload=st.binary(max_size=10))
    def test_message(self, seal, head, payload):
        with pytest.raises(SealBroken):
            self.end(is_trainer=False).check(seal, head, payload)

    @fuzzed(answer=no_seals | changed(answer), head=st.binary(max_size=10))
    def test_answer(self, answer, head):
        with pytest.raises(SealBroken):
            self.end(is_trainer=True).check_answer(answer, self.seal, head)


class TestFiles:
    """What a trainer finds in a workspace."""

    good = {"TASK_EXCHANGE": {"pipe": {"ARG": {"secret": "s"}}}, "job_owner": str(Owner.here())}
    contents = st.binary(max_size=200) | (json_data | spoiled(good)).map(lambda data: json.dumps(data).encode())

    def put(self, tmp_path, name: str, content: bytes):
        path = tmp_path / "job-1" / "app_site-1" / "config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_bytes(content)
        return path

    @fuzzed(share=0.5, content=contents)
    def test_rendezvous(self, tmp_path, content):
        path = self.put(tmp_path, RENDEZVOUS_FILE, content)
        try:
            claim = Claim(path)
        except FileRefused as e:
            assert str(path) in str(e)
        else:  # what was spoiled does not matter
            claim.close()
            assert isinstance(claim.content["TASK_EXCHANGE"]["pipe"]["ARG"]["secret"], str)

    @fuzzed(share=0.5, content=contents)
    def test_ranks_file(self, tmp_path, content):
        path = self.put(tmp_path, ranks_file(), content)
        with open(path) as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            found = find_ranks_file(str(tmp_path))
        assert found is None or found[0] == path

    @fuzzed(share=0.5, content=contents)
    def test_what_a_job_may_have_left(self, tmp_path, content):
        path = self.put(tmp_path, RENDEZVOUS_FILE, content)
        removed = remove_orphans([path.parent], [RENDEZVOUS_FILE])
        assert removed in ([], [path]) and path.exists() != bool(removed)

    @fuzzed(text=st.text(max_size=60) | st.lists(st.text("0123456789_-x", max_size=9), max_size=7).map("_".join))
    def test_owner(self, text):
        try:
            owner = Owner.parse(text)
        except ValueError:
            return
        assert str(owner).replace("-", "/") == text.replace("-", "/") and owner.is_gone in (True, False)

    @pytest.mark.parametrize("content", [b"[" * 100_000, b'{"TASK_EXCHANGE":' * 100_000, b"\xff" * 10, b""])
    def test_hostile_rendezvous(self, tmp_path, content):
        with pytest.raises(FileRefused):
            Claim(self.put(tmp_path, RENDEZVOUS_FILE, content))
        with open(self.put(tmp_path, ranks_file(), content)) as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert find_ranks_file(str(tmp_path)) is None


TOKENS = [
    "",
    *"{}[]\"',\n#:=\\\t|",
    "null",
    "5",
    "1e9",
    "${x}",
    "{app_script}",
    "include ",
    "+=",
    "- ",
    "&a ",
    "*a ",
    "é",
    "args",
]
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 60), st.sampled_from(TOKENS)),
    min_size=1,
    max_size=4,
)


class TestMigration:
    """Job configs with mistakes in them: migrated or refused, never written in halves."""

    configs = sorted(path for path in JOBS.glob("*/config_fed_client.*"))

    @fuzzed(share=0.1, sample=40, config=st.sampled_from(configs), changes=edits)
    def test_config(self, tmp_path, config, changes):
        text = config.read_text()
        for place, length, token in changes:
            at = int(place * len(text))
            text = text[:at] + token + text[at + length :]
        spoiled_job = tmp_path / "job"
        shutil.rmtree(spoiled_job, ignore_errors=True)
        spoiled_job.mkdir()
        path = spoiled_job / config.name
        path.write_text(text)
        code = main([str(spoiled_job), "--in-place"])
        migrated = path.read_text()
        assert code == OK or (code == NOT_MIGRATED and migrated == text)
        assert [entry.name for entry in spoiled_job.iterdir()] == [path.name]
        assert main([str(spoiled_job), "--in-place"]) == code and path.read_text() == migrated
