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

"""Whatever a model has in it arrives as it was, by each way; what cannot arrive, or has no room, is refused by name."""

import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from nvflare.app_common.executors.client_api.arrays.exchange import Exchange
from nvflare.app_common.executors.client_api.arrays.memory import CAN_SHARE, PrivateMemory, SharedMemory
from nvflare.app_common.executors.client_api.arrays.specs import ArrayRefused
from tests.unit_test.app_common.executors.client_api.arrays.specs_test import ARRAYS, REFUSED, assert_same
from tests.unit_test.app_common.executors.client_api.arrays.two_ends import MANY, Ends, mappings, ways
from tests.unit_test.app_common.executors.client_api.process_watch import few_descriptors, limited_files

pytestmark = [pytest.mark.skipif(not CAN_SHARE, reason="needs memfd"), pytest.mark.usefixtures("no_memory_left")]


@ways
class TestArrays:
    def test_all_kinds_in_one_message(self, size, can_share):
        ends, data = Ends(can_share), {**ARRAYS, "filler": np.ones(size)}
        received = ends.to_trainer(data)
        back = ends.to_job(received)
        for name, array in data.items():
            by_columns = array.flags.f_contiguous and not array.flags.c_contiguous
            for made in (received[name], back[name]):
                assert_same(made, array)
                assert made.flags.f_contiguous >= by_columns
            assert received[name].flags.writeable, "a script may train in place"

    def test_views_of_one_array(self, size, can_share):
        base = np.arange(2.0 * size).reshape(2, size)
        data = {"all": base, "row": base[1], "turned": base.T, "steps": base[:, ::2], "same": base}
        received = Ends(can_share).to_trainer(data)
        for name, array in data.items():
            assert_same(received[name], array)
        assert received["same"] is received["all"]
        received["row"] += 1
        assert_same(base, np.arange(2.0 * size).reshape(2, size))
        assert_same(received["all"], base)

    @pytest.mark.parametrize("array", REFUSED.values(), ids=REFUSED.keys())
    def test_refused_by_name(self, size, can_share, array):
        ends, data = Ends(can_share), {"v": np.ones(size), "layers": [{"w": array}]}
        for send in (ends.to_trainer, ends.to_job):
            with pytest.raises(ArrayRefused, match=r"layers\.0\.w: an array of dtype"):
                send(data)
        assert (ends.to_job({"v": data["v"]})["v"] == 1).all()


@ways
class TestTensors:
    @pytest.fixture(autouse=True)
    def torch(self):
        self.torch = pytest.importorskip("torch")

    def tensors(self, size: int) -> dict:
        torch = self.torch
        model = torch.nn.Linear(size, 2)
        storage = torch.arange(2.0 * size)
        return {
            "parameter": model.weight,
            **model.state_dict(),
            "wants a gradient": torch.ones(3, requires_grad=True),
            "a result": model.weight * 2,
            "storage": storage,
            "shares it": storage[3:],
            "turned": storage.view(2, size).T,
            "expanded": torch.ones(1).expand(size),
            "scalar": torch.tensor(3.0),
            "empty": torch.empty(0, 3),
            "flags": torch.tensor([True, False]),
            "narrow": torch.arange(4).to(torch.bfloat16),
            "conjugate": torch.tensor([1 + 2j]).conj(),
        }

    def test_all_kinds_in_one_message(self, size, can_share):
        ends, data = Ends(can_share), self.tensors(size)
        received = ends.to_trainer(data)
        back = ends.to_job(received)
        for name, tensor in data.items():
            for made in (received[name], back[name]):
                assert type(made) is self.torch.Tensor and not made.requires_grad
                assert made.dtype == tensor.dtype and self.torch.equal(made, tensor.detach())

    def test_training_in_place(self, size, can_share):
        torch, ends = self.torch, Ends(can_share)
        sent = torch.nn.Linear(size, 2)
        before = {name: tensor.clone() for name, tensor in sent.state_dict().items()}
        model = torch.nn.Linear(size, 2)
        received = ends.to_trainer(sent.state_dict())
        model.load_state_dict(received, assign=True)  # the model is what was received, not a copy
        model.requires_grad_(True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        model(torch.ones(size)).sum().backward()
        optimizer.step()
        assert torch.allclose(received["weight"], before["weight"] - 0.5)
        back = ends.to_job(model.state_dict())
        for name, tensor in before.items():
            assert torch.equal(sent.state_dict()[name], tensor), "the sender's own is as it was"
            assert torch.allclose(back[name], tensor - 0.5)

    def test_refused_by_name(self, size, can_share):
        data = {"v": self.torch.ones(size), "w": self.torch.ones(1, dtype=self.torch.complex128)}
        with pytest.raises(ArrayRefused, match="w: a tensor of dtype complex128"):
            Ends(can_share).to_job(data)


FORK = """
    import os
    import sys
    import numpy as np
    from tests.unit_test.app_common.executors.client_api.arrays.two_ends import MANY, Ends, mappings

    can_share = sys.argv[1] == "True"
    sent = np.ones(MANY)
    received = Ends(can_share).to_trainer({"w": sent})["w"]
    assert mappings() == can_share
    child = os.fork()
    if not child:
        seen = received.copy()
        received += 1  # as a worker that normalizes in place
        os._exit(0 if (seen == 1).all() and (received == 2).all() else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0 and (received == 1).all() and (sent == 1).all()
    child = os.fork()
    if not child:  # one that outlives its parent's array
        sys.stdin.read()
        os._exit(0 if (received == 1).all() else 1)
    received += 5
    del received
    assert mappings() == 0
    sys.stdin.close()
    os.close(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    print("done")
"""


@pytest.mark.parametrize("can_share", [True, False], ids=["shared memory", "pieces"])
def test_fork_after_mapping(can_share):
    """A child reads the model and has writes of its own, as long as it lives."""
    ended = run(FORK, str(can_share))
    assert ended.stdout == "done\n", ended.stderr


def run(script: str, *args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(script), *args]
    return subprocess.run(command, input="", capture_output=True, text=True)


class TestLimits:
    """A lack of memory is a refusal, at each step, and nothing stays of what was begun."""

    def test_of_what_is_reserved(self):
        ends, message = Ends(), SimpleNamespace(data={"w": np.ones(MANY)})
        with limited_files(4 << 20):
            with pytest.raises(ArrayRefused, match=r"8 MB of memory cannot be reserved for arrays: File too large"):
                with ends.trainer.pack(message):
                    raise AssertionError("there is memory")
        assert (ends.to_job({"w": np.ones(MANY)})["w"] == 1).all()

    def test_of_what_grows(self):
        memory = SharedMemory()
        with limited_files(4 << 20):
            with pytest.raises(ArrayRefused, match="cannot be reserved"):
                memory.grow(8 << 20)
        memory.close()

    def test_of_descriptors(self):
        with few_descriptors(0):
            with pytest.raises(ArrayRefused, match="memory for arrays cannot be had: Too many open files"):
                SharedMemory(4096)

    def test_of_the_address_space(self):
        script = """
            import resource
            from nvflare.app_common.executors.client_api.arrays.memory import PrivateMemory, SharedMemory
            from nvflare.app_common.executors.client_api.arrays.specs import ArrayRefused

            memory = SharedMemory(64 << 20)
            in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + (16 << 20), -1))
            for make in (lambda: memory.map(True), lambda: memory.map(False), lambda: PrivateMemory(64 << 20)):
                try:
                    make()
                except ArrayRefused as e:
                    print(e)
        """
        ended = run(script)
        lines = ended.stdout.splitlines()
        assert len(lines) == 3 and all("67 MB of memory cannot be" in line for line in lines), ended.stderr

    @pytest.mark.parametrize("kind", ["numpy", "torch"])
    def test_of_the_host(self, kind):
        if kind == "torch":
            torch = pytest.importorskip("torch")
            huge = torch.zeros(1).expand(10**12)
        else:
            huge = np.broadcast_to(np.float32(0), (10**12,))
        for end in (Ends().trainer, Ends(can_share=False).trainer):
            with pytest.raises(ArrayRefused, match=r"the arrays need 4000000 MB of memory, and the .* has \d+ MB left"):
                with end.pack(SimpleNamespace(data={"w": huge})):
                    raise AssertionError("there is memory")

    def test_of_what_a_peer_only_announces(self):
        memory = SharedMemory(4096)
        memory.seal(1 << 50)  # nothing of the rest is there
        opened = SharedMemory.open(memory.address())
        with limited_files(1 << 20), pytest.raises(ArrayRefused, match="the arrays need .* left"):
            opened.reserve_all()
        opened.close()
        memory.close()

    def test_at_the_receiver(self):
        ends, message = Ends(), SimpleNamespace(data={"w": np.ones(MANY)})
        with ends.trainer.pack(message) as packed:
            assert (Exchange().unpack(packed.payload)["w"] == 1).all()
            packed.payload["client_api.parcel"]["size"] *= 2
            with pytest.raises(ArrayRefused, match="larger than its memory"):
                ends.job.unpack(packed.payload)
        assert mappings() == 0
        with pytest.raises(ArrayRefused):
            PrivateMemory(10**15)
