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

"""Memory that two processes share: it is there as long as it is used, and not longer; a lack of it is an error."""

import gc
import os
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from nvflare.app_common.executors.client_api.arrays.exchange import Exchange
from nvflare.app_common.executors.client_api.arrays.memory import (
    CAN_SHARE,
    NotOnThisHost,
    PrivateMemory,
    SharedMemory,
    check_available,
    memory_left,
)
from nvflare.app_common.executors.client_api.arrays.specs import ArrayRefused
from tests.unit_test.app_common.executors.client_api.arrays.two_ends import MANY, Ends, in_use, ways

pytestmark = [pytest.mark.skipif(not CAN_SHARE, reason="needs memfd"), pytest.mark.usefixtures("no_memory_left")]


class TestSharedMemory:
    def sealed(self, content: bytes = b"abc") -> SharedMemory:
        memory = SharedMemory(4096)
        memory.write(64, content)
        memory.seal(4096)
        return memory

    def test_opened_by_its_address(self):
        memory = self.sealed()
        other = SharedMemory.open(memory.address())
        memory.close()
        mapped = other.map(is_private=True)
        other.close()
        assert mapped[64:67] == b"abc"

    def test_private_writing_is_seen_by_nobody_else(self):
        memory = self.sealed()
        private, shared = memory.map(is_private=True), memory.map(is_private=False)
        private[64:67] = b"xyz"
        assert shared[64:67] == b"abc"
        shared[64:67] = b"123"
        assert private[64:67] == b"xyz", "its page is its own since it was written to"
        memory.close()

    def test_nobody_can_shrink_it(self):
        memory = self.sealed()
        fd = memory.address()["fd"]
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 100)
        memory.close()

    def test_something_else_at_the_address(self, tmp_path):
        memory = self.sealed()
        address = memory.address()
        (tmp_path / "file").write_bytes(b"x" * 4096)
        with open(tmp_path / "file", "r+b") as file:
            r, w = os.pipe()
            unsealed = SharedMemory(4096)
            others = [
                {**address, "number": b"?" * 16},
                {**address, "fd": file.fileno()},
                {**address, "fd": r},
                {**address, "fd": unsealed.address()["fd"]},
                {**address, "fd": 10**6},
                {**address, "pid": 2**22 + 1},
            ]
            for other in others:
                with pytest.raises(NotOnThisHost):
                    SharedMemory.open(other)
            os.close(r)
            os.close(w)
            unsealed.close()
        memory.close()

    def test_kernel_frees_it_with_the_last_process(self):
        script = (
            "import sys\n"
            "from nvflare.app_common.executors.client_api.arrays.memory import SharedMemory\n"
            "memory = SharedMemory(4096)\n"
            "memory.seal(4096)\n"
            "print(memory.address()['fd'], flush=True)\n"
            "sys.stdin.read()"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        fd = int(child.stdout.readline())
        assert "memfd:client_api" in os.readlink(f"/proc/{child.pid}/fd/{fd}")
        child.kill()
        child.communicate()
        assert not os.path.exists(f"/proc/{child.pid}/fd/{fd}")


class TestLackOfMemory:
    def test_more_than_the_host_has(self):
        for make in (SharedMemory, PrivateMemory):
            with pytest.raises(ArrayRefused, match=r"need 1000000000 MB of memory, and the .* has \d+ MB left"):
                make(10**15)

    def test_growing(self):
        memory = SharedMemory()
        with pytest.raises(ArrayRefused):
            memory.grow(10**15)
        memory.close()

    def test_enough(self):
        check_available(4096)

    @pytest.mark.parametrize(
        "cgroup, files, left",
        [
            (
                "0::/a/b",
                {
                    "sys/fs/cgroup/a/memory.max": "1000",
                    "sys/fs/cgroup/a/memory.current": "900",
                    "sys/fs/cgroup/a/memory.stat": "shmem 9\ninactive_file 10\nactive_file 30\nslab_reclaimable 10",
                    "sys/fs/cgroup/a/b/memory.max": "max",
                    "sys/fs/cgroup/a/b/memory.current": "900",
                },
                150,
            ),
            (
                "9:cpu:/x\n4:memory:/c\n0::/",
                {
                    "sys/fs/cgroup/memory/c/memory.limit_in_bytes": "700",
                    "sys/fs/cgroup/memory/c/memory.usage_in_bytes": "300",
                    "sys/fs/cgroup/memory/c/memory.stat": "active_file 1\ntotal_inactive_file 2\ntotal_active_file 5\n",
                },
                407,
            ),
            ("0::/a", {}, None),
        ],
        ids=["v2", "v1", "no limit"],
    )
    def test_limit_of_a_cgroup(self, tmp_path, cgroup, files, left):
        files = {"proc/self/cgroup": cgroup, "proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   3 kB\n", **files}
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        expected = {"the host": 3072, "the cgroup (container)": left}
        assert memory_left(str(tmp_path)) == {name: value for name, value in expected.items() if value is not None}


@ways
class TestExchange:
    def test_message_is_what_it_was(self, size, can_share):
        weights, bias = np.arange(size, dtype=np.float32), np.arange(3.0)[::2]
        data = {"w": weights, "nested": [{"again": weights}, (bias, "text", None)], 7: np.array(1)}
        for send in (Ends(can_share).to_job, Ends(can_share).to_trainer):
            received = send(data)
            assert list(received) == ["w", "nested", 7]
            np.testing.assert_array_equal(received["w"], weights)
            assert received["nested"][0]["again"] is received["w"]
            np.testing.assert_array_equal(received["nested"][1][0], bias)
            assert received["nested"][1][1:] == ("text", None) and received[7] == 1
        assert data["w"] is weights and data["nested"][1][0] is bias, "the sender's own is as it was"

    def test_training_in_place_changes_nobody_elses(self, size, can_share):
        ends, weights = Ends(can_share), np.ones(size)
        received = ends.to_trainer({"w": weights})["w"]
        received += 1
        assert (weights == 1).all() and (received == 2).all()

    def test_memory_goes_with_the_last_array(self, size, can_share):
        received = Ends(can_share).to_job({"a": np.ones(size), "b": np.ones(size)})
        kept = received.pop("a")
        del received
        gc.collect()
        assert (kept == 1).all()

    def test_100_rounds(self, size, can_share):
        ends = Ends(can_share)
        for _ in range(3):
            assert (ends.to_job(ends.to_trainer({"w": np.ones(size)}))["w"] == 1).all()
        before = in_use()
        for _ in range(100 if size < MANY else 20):
            ends.to_job(ends.to_trainer({"w": np.ones(size)}))
        assert in_use() == before

    def test_refused_by_name(self, size, can_share):
        with pytest.raises(ArrayRefused, match="layers.1.w: .*dtype"):
            Ends(can_share).to_job({"layers": [1, {"w": np.array([object()])}], "v": np.ones(size)})

    def test_arrays_are_freed_as_they_are_copied(self, size, can_share):
        class Array:
            """What tells when an array is gone."""

        data, alive, seen = {}, [], []
        for name in "abc":
            token = Array()
            alive.append(weakref.ref(token))
            data[name] = np.frombuffer(Owner(size, token), dtype=np.uint8)
            del token
        message = SimpleNamespace(data=data)
        del data
        with Ends(can_share).trainer.pack(message):
            seen = [ref() for ref in alive]
        assert seen == [None] * 3


class Owner(bytearray):
    """A buffer that holds something as long as it is held."""

    def __init__(self, size: int, token):
        super().__init__(size)
        self.token = token


class TestOtherHost:
    def test_pieces_from_then_on(self, caplog):
        ends, message = Ends(), SimpleNamespace(data={"w": np.arange(MANY)})
        with ends.trainer.pack(message) as packed:
            assert not packed.is_in_pieces
            packed = ends.trainer.stop_sharing(packed, "no such process")
            assert packed.is_in_pieces
            assert ends.trainer.send_pieces(packed, lambda piece: (ends.job.take_piece(piece), True)[1])
            assert (ends.job.unpack(packed.payload)["w"] == np.arange(MANY)).all()
        assert "the other end cannot open memory of this one: no such process" in caplog.text
        caplog.clear()
        assert (ends.to_job({"w": np.arange(MANY)})["w"] == np.arange(MANY)).all()
        assert ends.trainer.way == "pieces" and caplog.text == ""

    def test_piece_that_does_not_arrive(self):
        ends, message = Ends(can_share=False), SimpleNamespace(data={"w": np.arange(MANY)})
        with ends.trainer.pack(message) as packed:
            assert not ends.trainer.send_pieces(packed, lambda piece: piece["offset"] == 0)

    def test_pieces_of_another_message(self):
        ends = Ends(can_share=False)
        messages = [SimpleNamespace(data={"w": np.full(MANY, value)}) for value in (1, 2)]
        with ends.trainer.pack(messages[0]) as one, ends.trainer.pack(messages[1]) as other:
            for packed in (one, other):
                ends.trainer.send_pieces(packed, lambda piece: (ends.job.take_piece(piece), True)[1])
            with pytest.raises(ArrayRefused, match="pieces of a message are missing"):
                ends.job.unpack(one.payload)

    def test_late_piece_of_a_message_that_was_given_up(self):
        ends = Ends(can_share=False)
        given_up, message = (SimpleNamespace(data={"w": np.full(MANY, value)}) for value in (1, 2))
        late = []
        with ends.trainer.pack(given_up) as packed:
            assert not ends.trainer.send_pieces(packed, late.append)

        def take(piece: dict) -> bool:
            for one in (piece, *late):
                ends.job.take_piece(one)
            return True

        with ends.trainer.pack(message) as packed:
            assert ends.trainer.send_pieces(packed, take)
            ends.job.take_piece(late[0])
            assert (ends.job.unpack(packed.payload)["w"] == 2).all()
            with pytest.raises(ArrayRefused, match="pieces of a message are missing"):
                ends.job.unpack(packed.payload)

    @pytest.mark.parametrize(
        "change",
        [{"offset": -1}, {"offset": 10}, {"size": 1}, {"size": 10**15}, {"transfer": "1"}, {"content": "0123456789"}],
    )
    def test_malformed_piece(self, change):
        piece = {"transfer": 1, "size": 10, "offset": 0, "content": b"0123456789", **change}
        with pytest.raises(ArrayRefused):
            Exchange().take_piece(piece)


class TestTensors:
    def test_there_and_back(self):
        torch = pytest.importorskip("torch")
        ends = Ends()
        weights = torch.arange(MANY).to(torch.bfloat16)
        data = {"w": weights, "p": torch.ones(3, requires_grad=True)}
        received = ends.to_trainer(data)
        received["w"][0] = 5
        back = ends.to_job(received)
        assert torch.equal(back["w"][1:], weights[1:]) and back["w"][0] == 5 and weights[0] == 0

    def test_carried_without_torch(self):
        script = (
            "import sys, numpy as np\n"
            "from types import SimpleNamespace as Message\n"
            "from nvflare.app_common.executors.client_api.arrays.arrival import SharedLanding\n"
            "from nvflare.app_common.executors.client_api.arrays.exchange import Exchange\n"
            "from nvflare.app_common.executors.client_api.arrays.specs import ArraySpec\n"
            "landing = SharedLanding()\n"
            "landing.begin('t', ArraySpec('torch', 'bfloat16', (2,))).write(memoryview(b'abcd'))\n"
            "placed = landing.finish({'t': b'm' * 16 + bytes(4)}, b'm' * 16, ['t'])\n"
            "job = Exchange(makes_tensors=False)\n"
            "with job.pack(Message(data=placed)) as packed:\n"
            "    tensor = job.unpack(packed.payload)['t']\n"
            "print(tensor.spec.dtype, tensor.nbytes, 'torch' in sys.modules)"
        )
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert ended.stdout == "bfloat16 4 False\n", ended.stderr
