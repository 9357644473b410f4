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

"""TaskHandover, without threads: which result belongs to which task, and what ends a wait."""

import pytest

from nvflare.apis.shareable import Shareable
from nvflare.app_common.executors.client_api.script.task_handover import TaskHandover


def task(name: str) -> Shareable:
    return Shareable({"task": name})


def received(exchange: TaskHandover):
    """What a script gets that does not wait: the name under which the task came, and the name inside it."""
    got = exchange.receive(lambda: False, timeout=0)
    return got and (got[0], got[1]["task"])


@pytest.fixture
def exchange():
    return TaskHandover()


@pytest.fixture
def in_task(exchange):
    """An exchange whose script works on the task `first`."""
    exchange.open_task("first")
    exchange.deliver(task("first"))
    assert received(exchange) == ("first", "first")
    return exchange


class TestTaskHandover:
    def test_task_is_received_once(self, exchange):
        exchange.open_task("first")
        assert received(exchange) is None
        exchange.deliver(task("first"))
        assert received(exchange) == ("first", "first")
        assert exchange.delivered is None
        assert received(exchange) is None

    def test_result_of_the_open_task_is_taken_once(self, in_task):
        first, second = Shareable(), Shareable()
        assert in_task.submit(first)
        assert not in_task.submit(second)
        assert in_task.result is first

    def test_result_before_the_task_was_received_is_not_taken(self, exchange):
        exchange.open_task("first")
        exchange.deliver(task("first"))
        assert not exchange.submit(Shareable())
        assert not exchange.has_result

    def test_result_without_an_open_task_is_not_taken(self, exchange):
        assert not exchange.submit(Shareable())

    def test_late_result_is_not_taken(self, in_task):
        in_task.close_task()
        assert not in_task.submit(Shareable())

    def test_late_result_is_not_taken_for_the_next_task(self, in_task):
        in_task.close_task()
        in_task.open_task("second")
        assert not in_task.submit(Shareable())
        in_task.deliver(task("second"))
        assert not in_task.submit(Shareable())
        assert received(in_task) == ("second", "second")
        result = Shareable()
        assert in_task.submit(result)
        assert in_task.result is result

    def test_task_that_was_given_up_is_not_received(self, exchange):
        exchange.open_task("first")
        exchange.deliver(task("first"))
        exchange.close_task()
        assert received(exchange) is None

    def test_script_owes_a_result_until_it_has_sent_one(self, exchange):
        assert not exchange.has_answered
        for name in ("first", "second"):
            exchange.open_task(name)
            exchange.deliver(task(name))
            received(exchange)
            assert not exchange.has_answered
            exchange.close_task()
            exchange.submit(Shareable())
            assert exchange.has_answered

    def test_nothing_is_held_after_a_task(self, in_task):
        in_task.submit(Shareable())
        in_task.close_task()
        assert (in_task.task_name, in_task.delivered, in_task.has_result) == (None, None, False)

    def test_receive_ends_when_it_is_over(self, exchange):
        assert exchange.receive(lambda: True, timeout=None) is None

    def test_stopped_script_receives_nothing(self, exchange):
        exchange.open_task("first")
        exchange.deliver(task("first"))
        exchange.stop("the job ends")
        assert received(exchange) is None

    def test_first_reasons_count(self, exchange):
        for text in ("one", "two"):
            exchange.stop(text)
            exchange.end_script(text)
        assert (exchange.stop_reason, exchange.script_end) == ("one", "one")
