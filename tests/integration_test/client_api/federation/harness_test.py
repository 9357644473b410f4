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

"""The harness itself: links that lose and hold what they carry, and an end for everything when its owner is killed."""

import os
import select
import socket
import subprocess
import sys
import time

import pytest

from tests.integration_test.client_api.federation.links import HOSTS, SERVER_HOST, SiteLink, may_have_namespaces
from tests.integration_test.client_api.federation.parts import find_parts
from tests.integration_test.client_api.poc_federation import wait_for_end

LIMIT = 60.0  # seconds
SILENCE = 1.0
DELAY = 0.3
# Connects and sends back each byte that it gets.
ECHO = (
    "import socket,sys; s=socket.create_connection((sys.argv[1], int(sys.argv[2])))\nwhile d:=s.recv(1): s.sendall(d)"
)
in_namespace = pytest.param(
    True, id="namespace", marks=pytest.mark.skipif(not may_have_namespaces(), reason="needs root and /dev/net/tun")
)


class TestSiteLink:
    @pytest.fixture(params=[in_namespace, pytest.param(False, id="relay")])
    def link(self, request, tmp_path):
        """A link, and a connection over it with a process that sends back what it gets."""
        hosts = tmp_path / "hosts"
        hosts.write_text(HOSTS)
        with socket.create_server(("0.0.0.0", 0)) as listener, open(tmp_path / "log", "w") as log:
            port = listener.getsockname()[1]
            link = SiteLink(str(hosts) if request.param else str(port), request.param, log)
            host = SERVER_HOST if link.port is None else "localhost"
            command = [sys.executable, "-c", ECHO, host, str(link.port or port)]
            echo = subprocess.Popen(link.enter(command, tmp_path))
            try:
                listener.settimeout(LIMIT)
                connection, _ = listener.accept()
                with connection:
                    yield link, connection
            finally:
                link.tell("heal")
                echo.wait(LIMIT)
                link.close()

    @staticmethod
    def answers(connection, timeout: float) -> bool:
        return bool(select.select([connection], [], [], timeout)[0]) and connection.recv(1) == b"x"

    def test_carries(self, link):
        _, connection = link
        connection.sendall(b"x")
        assert self.answers(connection, LIMIT)

    def test_cut_loses_nothing_for_good(self, link):
        site_link, connection = link
        site_link.tell("cut")
        connection.sendall(b"x")
        assert not self.answers(connection, SILENCE)
        site_link.tell("heal")
        assert self.answers(connection, LIMIT)

    def test_delay(self, link):
        site_link, connection = link
        site_link.tell(f"delay {DELAY}")
        started = time.monotonic()
        connection.sendall(b"x")
        assert self.answers(connection, LIMIT)
        assert time.monotonic() - started >= 2 * DELAY


@pytest.mark.watchdog(300)
def test_nothing_outlives_a_killed_owner(tmp_path):
    """Without namespaces, as for a user who is not root."""
    command = [
        sys.executable,
        "-u",
        "-m",
        "tests.integration_test.client_api.federation",
        "--plain",
        "--sites",
        "1",
        "--folder",
        str(tmp_path),
    ]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert str(tmp_path) in owner.stdout.readline()
        pids = [part.pid for part in find_parts(tmp_path)]
        assert {part.role for part in find_parts(tmp_path)} >= {"server", "CP"}
    finally:
        owner.kill()
        owner.communicate()
    assert wait_for_end(lambda: [pid for pid in pids if os.path.exists(f"/proc/{pid}")], LIMIT) == []
    assert find_parts(tmp_path) == []
