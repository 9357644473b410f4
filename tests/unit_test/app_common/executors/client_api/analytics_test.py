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

"""AnalyticsRelay alone: order, back-pressure, and an end that is bounded, whatever the server does."""

import threading

import pytest

from nvflare.apis.signal import Signal
from nvflare.app_common.executors.client_api.server import limits
from nvflare.app_common.executors.client_api.server.analytics import AnalyticsRelay


class Server:
    """Takes records as the relay hands them over; can be blocked, and refuses what it is told to refuse."""

    def __init__(self):
        self.received = []
        self.threads = set()
        self.entered = threading.Event()  # a record is in delivery
        self.open = threading.Event()
        self.open.set()
        self.refused = ()

    def take(self, record):
        self.entered.set()
        self.open.wait()
        self.threads.add(threading.current_thread())
        if record in self.refused:
            raise ConnectionError(f"no {record}")
        self.received.append(record)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.open.set()


@pytest.fixture
def relay(server):
    relay = AnalyticsRelay(server.take)
    relay.release()
    yield relay
    server.open.set()
    relay.close()


class TestDelivery:
    def test_records_arrive_in_order(self, relay, server):
        for number in range(2000):
            relay.put(number)
        assert relay.flush()
        assert server.received == list(range(2000))

    def test_records_of_each_thread_arrive_in_order(self, relay, server):
        def log(name):
            for number in range(200):
                relay.put((name, number))

        loggers = [threading.Thread(target=log, args=(name,)) for name in "abc"]
        for logger in loggers:
            logger.start()
        for logger in loggers:
            logger.join()
        assert relay.flush()
        for name in "abc":
            assert [number for owner, number in server.received if owner == name] == list(range(200))

    def test_one_thread_delivers_and_only_if_something_was_logged(self, relay, server):
        before = set(threading.enumerate())
        assert relay.flush()
        assert set(threading.enumerate()) == before
        relay.put(1)
        relay.put(2)
        relay.flush()
        assert len(server.threads) == 1
        assert server.threads.isdisjoint(before)

    def test_put_does_not_wait_for_the_server(self, relay, server):
        server.open.clear()
        for number in range(100):
            relay.put(number)
        server.entered.wait()
        assert server.received == []
        server.open.set()
        assert relay.flush()
        assert server.received == list(range(100))

    def test_record_that_cannot_be_delivered_does_not_stop_the_others(self, relay, server, caplog):
        server.refused = (3, 5)
        for number in range(8):
            relay.put(number)
        assert relay.flush()
        assert server.received == [0, 1, 2, 4, 6, 7]
        assert relay.dropped == 2
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert ["no 3" in errors[0], "no 5" in errors[1]] == [True, True]


class TestBackPressure:
    def test_put_waits_while_too_many_are_pending(self, relay, server, monkeypatch):
        monkeypatch.setattr(limits, "MAX_PENDING_RECORDS", 10)
        server.open.clear()
        submitted = []
        full = threading.Event()

        def log():
            for number in range(25):
                submitted.append(number)
                if number == 10:
                    full.set()  # the tenth record is in, and the next call must wait
                relay.put(number)

        logger = threading.Thread(target=log)
        logger.start()
        full.wait()
        server.entered.wait()
        assert logger.is_alive() and submitted[-1] == 10
        server.open.set()
        logger.join()
        assert relay.flush()
        assert server.received == list(range(25))
        assert relay.dropped == 0

    def test_who_cannot_wait_has_all_taken_or_none(self, relay, server, monkeypatch):
        monkeypatch.setattr(limits, "MAX_PENDING_RECORDS", 2)
        server.open.clear()
        assert relay.put(0, can_wait=False)
        assert relay.put(1, 2, 3, can_wait=False), "there was room for one"
        assert not relay.put(4, can_wait=False)
        server.open.set()
        assert relay.flush()
        assert server.received == [0, 1, 2, 3] and relay.dropped == 0

    def test_thread_that_cannot_be_started(self, relay, server, monkeypatch):
        def fail(thread):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            with pytest.raises(RuntimeError):
                relay.put(0)
        assert relay.put(1) and relay.flush()
        assert server.received == [1]

    def test_close_frees_who_waits(self, relay, server, monkeypatch):
        monkeypatch.setattr(limits, "MAX_PENDING_RECORDS", 1)
        monkeypatch.setattr(limits, "CLOSE_TIMEOUT", 0.1)
        monkeypatch.setattr(limits, "ACK_TIMEOUT", 0.1)
        server.open.clear()
        relay.put(0)
        logger = threading.Thread(target=relay.put, args=(1,))
        logger.start()
        server.entered.wait()
        relay.close()
        logger.join()
        assert relay.dropped == 2


class TestFlush:
    def test_flush_waits_for_the_records_before_it(self, relay, server):
        server.open.clear()
        relay.put(1)
        flushed = []
        flusher = threading.Thread(target=lambda: flushed.append(relay.flush()))
        flusher.start()
        server.entered.wait()
        assert flushed == []
        server.open.set()
        flusher.join()
        assert flushed == [True]
        assert server.received == [1]

    def test_flush_waits_for_no_record_after_it(self, server):
        def take(number):  # while the script logs the next one
            server.take(number)
            relay.put(number + 1)

        relay = AnalyticsRelay(take)
        relay.put(0)
        assert relay.flush() and relay.flush()
        assert server.received[:2] == [0, 1]
        relay.close()
        assert relay.dropped >= 1, "the last one"

    def test_flush_is_bounded(self, relay, server, caplog):
        server.open.clear()
        relay.put(1)
        relay.put(2)
        assert relay.flush(timeout=0.1) is False
        assert any("2 log records still wait" in record.getMessage() for record in caplog.records)

    def test_flush_hears_of_an_abort(self, relay, server):
        server.open.clear()
        relay.put(1)
        signal = Signal()
        signal.trigger(True)
        assert relay.flush(abort_signal=signal) is False

    def test_flush_of_a_delivered_queue_does_not_ask_for_an_abort(self, relay):
        signal = Signal()
        signal.trigger(True)
        assert relay.flush(abort_signal=signal) is True


class TestPause:
    @pytest.fixture
    def relay(self, server, monkeypatch):
        monkeypatch.setattr(limits, "BURST_PAUSE", 3600.0)
        relay = AnalyticsRelay(server.take)
        relay.release()
        yield relay
        relay.close()

    def test_first_records_wait_until_somebody_wants_them(self, relay, server):
        for number in range(3):
            relay.put(number)
        assert server.received == []
        assert relay.flush()
        assert server.received == [0, 1, 2]

    def test_close_wants_them(self, relay, server):
        relay.put(1)
        relay.close()
        assert server.received == [1]

    def test_next_burst_waits_too(self, relay, server):
        for number in range(2):
            relay.put(number)
            assert server.received == list(range(number))
            assert relay.flush()


class TestClose:
    def test_close_delivers_what_is_pending(self, relay, server, caplog):
        for number in range(50):
            relay.put(number)
        relay.close()
        assert server.received == list(range(50))
        assert relay.dropped == 0
        assert caplog.records == []

    def test_close_with_a_blocked_server_is_bounded_and_counts(self, relay, server, monkeypatch, caplog):
        monkeypatch.setattr(limits, "CLOSE_TIMEOUT", 0.1)
        monkeypatch.setattr(limits, "ACK_TIMEOUT", 0.1)
        server.open.clear()
        for number in range(5):
            relay.put(number)
        relay.close()
        assert relay.dropped == 5
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert any("5 log records could not be delivered" in warning for warning in warnings)

    def test_close_ends_the_thread(self, relay, server):
        relay.put(1)
        relay.close()
        assert not any(thread.is_alive() for thread in server.threads)

    def test_close_is_idempotent(self, relay, server, caplog):
        server.refused = (1,)
        relay.put(1)
        relay.close()
        relay.close()
        assert relay.dropped == 1

    def test_close_without_a_record(self, relay):
        relay.close()
        assert relay.dropped == 0

    def test_record_after_close_is_counted(self, relay, server):
        relay.close()
        relay.put(1)
        assert relay.dropped == 1
        assert server.received == []
