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

"""A federation to play with: `python -m tests.integration_test.client_api.federation --help`."""

import argparse
import cmd
import shlex
import tempfile
from pathlib import Path

from tests.integration_test.client_api.federation.federation import Federation


class Console(cmd.Cmd):
    """Commands for a running federation. Participants are server, site-1, ...; roles are what `parts` lists."""

    prompt = "federation> "

    def __init__(self, federation: Federation):
        super().__init__()
        self._federation = federation

    def onecmd(self, line: str) -> bool:
        try:
            return super().onecmd(line)
        except Exception as e:  # a mistake in a command must not end the federation
            print(f"{type(e).__name__}: {e}")
            return False

    def do_parts(self, _):
        """parts: the processes that run"""
        print(*self._federation.parts(), sep="\n")

    def do_left(self, _):
        """left: processes, sockets, credentials with their modes, files"""
        print(self._federation.inventory())

    def do_submit(self, folder):
        """submit FOLDER: submits a job"""
        with self._federation.session() as session:
            print(session.submit_job(str(Path(folder).absolute())))

    def do_jobs(self, _):
        """jobs: all jobs and their status"""
        with self._federation.session() as session:
            for job in session.list_jobs():
                print(job["job_id"], job["status"], job["job_name"])

    def do_abort(self, job_id):
        """abort JOB: aborts a job"""
        with self._federation.session() as session:
            session.abort_job(job_id)

    def do_console(self, job_id):
        """console JOB: what an administrator gets to see of a job"""
        with self._federation.session() as session:
            for name, text in self._federation.console(session, job_id).items():
                print(f"[{name}]\n{text}")

    def do_kill(self, arguments):
        """kill ROLE [OWNER [JOB]]: SIGKILL"""
        self._federation.kill(*shlex.split(arguments))

    def do_stop(self, arguments):
        """stop ROLE [OWNER [JOB]]: SIGSTOP"""
        self._federation.stop(*shlex.split(arguments))

    def do_resume(self, arguments):
        """resume ROLE [OWNER [JOB]]: SIGCONT"""
        self._federation.resume(*shlex.split(arguments))

    def do_restart(self, name):
        """restart PARTICIPANT: kills it and starts it again"""
        self._federation.restart(name)

    def do_cut(self, site):
        """cut SITE: loses everything between the site and its server"""
        self._federation.cut(site)

    def do_heal(self, site):
        """heal SITE: lets everything pass"""
        self._federation.heal(site)

    def do_delay(self, arguments):
        """delay SITE SECONDS: holds each packet for so long"""
        site, seconds = shlex.split(arguments)
        self._federation.delay(site, float(seconds))

    def do_repair(self, _):
        """repair: undoes cuts, delays, stops and kills"""
        self._federation.repair()

    def do_quit(self, _):
        """quit: shuts the federation down"""
        return True

    do_EOF = do_quit


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.integration_test.client_api.federation", description=__doc__)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--relay", action="store_true", help="connect the last site through a relay")
    parser.add_argument("--plain", action="store_true", help="TCP relays instead of network namespaces")
    parser.add_argument("--folder", help="where all files go (must be empty); default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="federation-") as temporary:
        folder, in_namespaces = Path(arguments.folder or temporary), False if arguments.plain else None
        with Federation(folder, arguments.sites, arguments.relay, in_namespaces) as federation:
            print(f"startup kits, jobs and logs: {federation.root}")
            Console(federation).cmdloop()


if __name__ == "__main__":
    main()
