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

"""The cable between a site and the rest of the world, as a process: `site_link.py HOSTS_FILE`, or `site_link.py PORT`.

With a HOSTS_FILE (needs root) the process makes a network namespace for one site, connects it with this host by two
tunnel interfaces, and carries the packets between them. Who enters the namespace by the process's pid finds the file
as /etc/hosts, with this host's address in place of {host}. Without root it is a TCP relay to a PORT of this host.

It prints `{"address": ..., "port": ...}`, where the site finds this host, and then obeys the lines of its standard
input, with `ok` for an answer: `cut` loses everything from now on, without a word to either side; `heal` lets
everything pass; `delay S` holds each packet for S seconds. The end of the input is its end, so a link dies with
whoever holds it, and its interfaces and its namespace with it.
"""

import ctypes
import fcntl
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
SIOCSIFADDR, SIOCSIFDSTADDR, SIOCSIFMTU = 0x8916, 0x8918, 0x8922
MTU = 60000  # few large packets: each costs a turn of a loop in Python
CHUNK = 65536
# Of the addresses that are set aside for networks between carrier and customer, so that no real one is hidden.
NETWORK = "100.{}.{}.{}"


class Traffic:
    """What is on its way: pairs of (send, data), held for the delay; nothing while the link is cut."""

    def __init__(self):
        self.is_cut = False
        self.delay = 0.0
        self._held = deque()  # (due, send, data)

    def put(self, send, data: bytes) -> None:
        if not self.is_cut:
            self._held.append((time.monotonic() + self.delay, send, data))

    def obey(self, line: str) -> None:
        verb, *args = line.split()
        if verb == "delay":
            self.delay = float(args[0])
        else:
            self.is_cut = {"cut": True, "heal": False}[verb]
        if self.is_cut:
            self._held.clear()
        print("ok", flush=True)

    def deliver(self) -> float:
        """Sends what is due; returns the seconds until there is more to send (at most 1)."""
        while self._held and (self.is_cut or self._held[0][0] <= time.monotonic()):
            _, send, data = self._held.popleft()
            try:
                send(data)
            except OSError:
                pass  # a full queue or a closed connection loses what is sent, as a network does
        # Time goes on meanwhile, and select() takes nothing below 0.
        return min(1.0, max(0.0, self._held[0][0] - time.monotonic())) if self._held else 1.0


def _ioctl(request: int, name: bytes, argument: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return fcntl.ioctl(any_socket, request, struct.pack("16s24s", name, argument))


def _raise_interface(name: bytes) -> None:
    flags = struct.unpack_from("16sH", _ioctl(SIOCGIFFLAGS, name, b""))[1]
    _ioctl(SIOCSIFFLAGS, name, struct.pack("H", flags | IFF_UP))


def _make_tunnel(own: str, peer: str) -> int:
    """Makes an interface in the present namespace; it lives as long as the returned file."""
    tunnel = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = fcntl.ioctl(tunnel, TUNSETIFF, struct.pack("16sH22x", b"", IFF_TUN | IFF_NO_PI))[:16].rstrip(b"\0")
    for request, address in ((SIOCSIFADDR, own), (SIOCSIFDSTADDR, peer)):
        _ioctl(request, name, struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(address)))
    _ioctl(SIOCSIFMTU, name, struct.pack("i", MTU))
    _raise_interface(name)
    return tunnel


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")


def _replace_hosts(template: str, host: str) -> None:
    """Puts a file in place of /etc/hosts in this process's mount namespace."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    with tempfile.NamedTemporaryFile("w") as hosts:
        hosts.write(Path(template).read_text().replace("{host}", host))
        hosts.flush()
        os.chmod(hosts.name, 0o644)
        subprocess.run(["mount", "--bind", hosts.name, "/etc/hosts"], check=True)


def carry_packets(hosts_file: str) -> None:
    net = (random.randint(64, 127), random.randint(0, 255))
    last = 4 * random.randint(0, 63)
    host, site = (NETWORK.format(*net, last + number) for number in (1, 2))
    host_end = _make_tunnel(host, site)
    _unshare(CLONE_NEWNET | CLONE_NEWNS)
    _raise_interface(b"lo")
    site_end = _make_tunnel(site, host)
    _replace_hosts(hosts_file, host)
    print(json.dumps({"address": host, "port": None}), flush=True)
    traffic = Traffic()
    other = {host_end: site_end, site_end: host_end}
    while True:
        readable, _, _ = select.select([sys.stdin, *other], [], [], traffic.deliver())
        for end in readable:
            if end is not sys.stdin:
                traffic.put(lambda packet, to=other[end]: os.write(to, packet), os.read(end, CHUNK))
            elif not (line := sys.stdin.readline()):
                return
            else:
                traffic.obey(line)


class _Relay:
    """Connections of a site with a port of this host."""

    def __init__(self, port: int):
        self._port = port
        self._traffic = Traffic()
        self._peers = {}  # each socket: the one that it is connected with
        self._listener = socket.create_server(("127.0.0.1", 0))
        print(json.dumps({"address": "localhost", "port": self._listener.getsockname()[1]}), flush=True)

    def run(self) -> None:
        while True:
            # What is not read while the link is cut is not lost, as TCP would see to that in a real network, too.
            sockets = [] if self._traffic.is_cut else [self._listener, *self._peers]
            readable, _, _ = select.select([sys.stdin, *sockets], [], [], self._traffic.deliver())
            for source in readable:
                if source is sys.stdin:
                    if not (line := sys.stdin.readline()):
                        return
                    self._traffic.obey(line)
                elif source is self._listener:
                    self._connect(self._listener.accept()[0])
                elif source in self._peers:
                    self._pass_on(source)

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._port))
        except OSError:
            near.close()
            return
        self._peers[near], self._peers[far] = far, near

    def _pass_on(self, source: socket.socket) -> None:
        try:
            data = source.recv(CHUNK)
        except OSError:
            data = b""
        peer = self._peers[source]
        if data:
            self._traffic.put(peer.sendall, data)
            return
        for end in (source, peer):
            del self._peers[end]
            end.close()


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        _Relay(int(sys.argv[1])).run()
    else:
        carry_packets(sys.argv[1])
