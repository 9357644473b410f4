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

"""The links of sites, as their owner has them: each is a process, see site_link.py."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import List, Optional

SERVER_HOST = "fl-server"
RELAY = "relay-1"
# What a site's /etc/hosts has; its own name, too, which torchrun looks for.
HOSTS = f"127.0.0.1 localhost {socket.gethostname()}\n{{host}} {SERVER_HOST} {RELAY}\n"
STOP_TIMEOUT = 60.0  # seconds


def may_have_namespaces() -> bool:
    """Whether this user may make network namespaces and tunnels."""
    return os.geteuid() == 0 and os.access("/dev/net/tun", os.R_OK | os.W_OK)


class SiteLink:
    """The link of one site with the server's host; see site_link.py."""

    def __init__(self, argument: str, in_namespace: bool, log):
        command = [sys.executable, str(Path(__file__).with_name("site_link.py")), argument]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        self._process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
        self._in_namespace = in_namespace
        self.port: Optional[int] = None
        answer = self._process.stdout.readline()
        if not answer:
            self.close()
            raise RuntimeError(f"no link: site_link.py ended, see {log.name}")
        self.port = json.loads(answer)["port"]

    def enter(self, command: List[str], folder: Path) -> List[str]:
        """The command that runs a command in a folder on the site's side of the link."""
        command = ["env", f"--chdir={folder}", *command]
        if not self._in_namespace:
            return command
        return ["nsenter", "--target", str(self._process.pid), "--net", "--mount", "--", *command]

    def tell(self, order: str) -> None:
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer == "ok\n", f"{order!r}: {answer!r}"

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(STOP_TIMEOUT)
