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

"""A cell is connected once the other end knows it: what is then sent is answered, however slow that end was."""

import socket
import time

import pytest

from tests.integration_test.client_api.cell_harness import Federation, fetch_task


@pytest.mark.parametrize("site, late", [("prompt", 0.0), ("late", 0.2), ("later", 1.0)])
def test_first_message_after_the_connection(site, late):
    federation = Federation(late)
    try:
        # With one request, which is never sent again.
        assert fetch_task(federation.join(site), 10, 1.0)
    finally:
        federation.stop()


@pytest.fixture
def default_timeout():
    """What a script may set for all sockets, in seconds; in_process it is that of the job's process."""
    before, timeout = socket.getdefaulttimeout(), 0.2
    socket.setdefaulttimeout(timeout)
    yield timeout
    socket.setdefaulttimeout(before)


def test_connection_outlasts_the_default_timeout_of_sockets(default_timeout):
    federation = Federation()
    try:
        cell = federation.join("patient")
        connections = cell.core_cell.communicator.conn_manager.sfm_conns
        before = list(connections)
        time.sleep(2 * default_timeout)
        assert fetch_task(cell, 10, 1.0)
        assert list(connections) == before
    finally:
        federation.stop()
