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

"""The trainer's side of attach: finds, waits for and claims the rendezvous of a job, and runs a script in this process.

    python -m nvflare.app_common.executors.client_api.attach --workspace DIR -- train.py ARGS
    torchrun ... -m nvflare.app_common.executors.client_api.attach --workspace DIR -- train.py ARGS

A notebook or a service calls `wait_for()` and passes what it returns to `flare.init(config_file=...)`.

Exit codes: 0 the job or the script ended well, 1 the script failed or left a task without a result, 2 wrong usage, 3
there was no job, 4 the only file by which trainer and job could meet (the rendezvous) was refused, 5 the job rejected
this trainer, 6 the job was lost, 7 it could not be reached, 130 interrupted, 143 terminated.
"""

import argparse
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from enum import IntEnum
from typing import List, Optional, Tuple

from nvflare.app_common.executors.client_api import owner_process
from nvflare.app_common.executors.client_api.formats.outside_text import clip_cause, readable
from nvflare.app_common.executors.client_api.process.sigterm import Terminated, raise_on_sigterm
from nvflare.app_common.executors.client_api.session.handshake import HandshakeError, Rejected
from nvflare.app_common.executors.client_api.session.private_files import FileRefused
from nvflare.app_common.executors.client_api.session.rendezvous import (
    RENDEZVOUS_FILE,
    Claim,
    find_files,
    find_ranks_file,
    identity_of,
)
from nvflare.client import api_context
from nvflare.client.api_spec import CLIENT_API_TYPE_KEY
from nvflare.fuel.utils.config_service import ConfigService
from nvflare.security.logging import secure_format_traceback

# Limits of attach; --wait is the only one that its user can set.
# Seconds between two looks at the workspace: it may be on a shared file system, which tells nobody of new files.
LOOK_INTERVAL = 0.2
# Seconds between two lines that tell that it still waits.
PROGRESS_INTERVAL = 10.0
# Seconds from the start of a script to its next one (--follow), doubled with each run that was in vain; the most.
FIRST_PAUSE, MAX_PAUSE = 1.0, 60.0

# The error in a process that an attached script starts.
_NOT_IN_COMMANDS = (
    "attach: only the process that is attached can call flare.init(), not one that its script starts; to attach all "
    "ranks of a distributed training, start them by torchrun ... -m nvflare.app_common.executors.client_api.attach"
)


class ExitCode(IntEnum):
    ENDED = 0
    FAILED = 1
    NOBODY = 3
    REFUSED = 4
    REJECTED = 5
    LOST = 6
    UNREACHED = 7
    INTERRUPTED = 130  # as a shell reports SIGINT and SIGTERM
    TERMINATED = 143


_STOPPED = (ExitCode.INTERRUPTED, ExitCode.TERMINATED)


class NobodyToAttachTo(Exception):
    """No job opened a rendezvous in the given time."""


_claim: Optional[Claim] = None  # held until the next one, or the end of the process
_done = set()  # identities of files: rendezvous whose jobs did not take this trainer, jobs that this rank has served
_turns = {}  # when this process last served the job with this config folder: the less recent goes first


def wait_for(
    workspace: str, job: Optional[str] = None, site: Optional[str] = None, timeout: Optional[float] = None
) -> str:
    """Waits for the rendezvous of a job and claims it; leaves the session of the call before, if there was one.

    Args:
        workspace: the site's workspace folder, or one above those of several sites; links below it are not followed.
        job, site: the job's id, the site's name; default: any.
        timeout: seconds, 0 or more; default: no limit.

    Returns:
        The path for `flare.init(config_file=...)`, which is to be called soon.

    Raises:
        ValueError: names the argument, its value and what is allowed.
        NobodyToAttachTo: the time is up.
        FileRefused: the time is up, and what was found must not be used; the text says why.
    """
    global _claim
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout >= 0):  # as NaN is not
        raise ValueError(f"timeout must be a number of seconds, 0 or more, or None, but is {timeout!r}")
    for name, value in (("workspace", workspace), ("job", job), ("site", site)):
        if value == "":  # of a variable that is not set: it would be the working directory, or a job that never comes
            raise ValueError(f"{name} must not be empty, but is {value!r}")
    _give_up_claim("the trainer has gone on to another job")
    if not os.access(os.path.join(workspace, ""), os.R_OK | os.X_OK):  # "" also tells that it is no file
        _say(f"{workspace} is not there yet, or no folder that can be read")
    wanted = (f"job {job}" if job else "a job") + (f" of site {site}" if site else "")
    _claim = _wait(lambda: _claim_any(workspace, job, site), f"{wanted} in {workspace}", timeout)
    _turns[_claim.path.parent] = time.monotonic()
    _prepare_client_api(str(_claim.path))
    return str(_claim.path)


def _give_up_claim(reason: str) -> None:
    global _claim
    if _claim:
        _leave(reason)
        _claim.close()
        _claim = None


def _prepare_client_api(config_file: str) -> None:
    os.environ[CLIENT_API_TYPE_KEY] = api_context.ClientAPIType.EX_PROCESS_API.value
    # Where nvflare looks for comm_config.json: by default below the working directory, which may be somebody's home.
    ConfigService.initialize(section_files={}, config_path=[os.path.dirname(config_file)])
    owner_process.one_context_per_rank()  # in each rank, of which trainer_end sees only the first


def _claim_any(workspace: str, job: Optional[str], site: Optional[str]) -> Optional[Claim]:
    refused = None
    paths = find_files(workspace, RENDEZVOUS_FILE, job, site)
    for path in sorted(paths, key=lambda path: _turns.get(path.parent, 0.0)):
        with suppress(FileNotFoundError, BlockingIOError):  # it is somebody else's by now
            try:
                if identity_of(path.lstat()) not in _done:
                    claim = Claim(path)
                    if "RANK" in os.environ:
                        claim.tell_ranks()
                    return claim
            except FileRefused as e:
                refused = e
    if refused:
        raise refused
    return None


def _wait(look, what: str, timeout: Optional[float]):
    """Looks until something is there; says every now and then that it still waits."""
    start = next_word = time.monotonic()
    pause, told = threading.Event(), set()
    while True:
        began = time.monotonic()
        try:
            found, refused = look(), None
        except FileRefused as e:
            found, refused = None, e
            if str(e) not in told:
                told.add(str(e))
                _say(str(e))
        if found:
            return found
        now = time.monotonic()
        if timeout is not None and now - start >= timeout:
            raise refused or NobodyToAttachTo(f"no rendezvous of {what} in {timeout:g} s")
        if now >= next_word:
            next_word = now + PROGRESS_INTERVAL
            _say(f"waiting for {what} ...")
        pause.wait(pause_of_look(now - began, float("inf") if timeout is None else timeout - (now - start)))


def pause_of_look(took: float, left: float) -> float:
    """Returns the seconds to the next look: after one that took so many, with so many left to wait."""
    return min(max(LOOK_INTERVAL, 10 * took), left)  # or looking would be all that a file system does


def _say(text: str) -> None:
    # Others may have named a folder that it tells of, and this may be a terminal.
    print(f"attach: {readable(text)}".replace("\n", "\\n"), file=sys.stderr, flush=True)


def _run_script(path: str, argv: List[str], config_file: str) -> int:
    """Runs a script whose `flare.init()` is to find the given configuration, to its end; returns an ExitCode."""
    # The one way to give `flare.init()` without arguments another file than config/client_api_config.json in the
    # working directory, which is the script's own affair here.
    api_context.DEFAULT_CONFIG = config_file
    sys.argv, sys.path[0] = argv[:], os.path.dirname(path)
    code, how = _outcome_of(path)
    has_joined, is_lost, is_owing = _leave(clip_cause(f"the script {argv[0]} has ended: {how}"))
    if is_lost:
        _say("the job was lost")
    elif is_owing and code == ExitCode.ENDED:
        code = ExitCode.FAILED
        _say("the script has left a task without a result")
    elif code == ExitCode.FAILED and not has_joined and not os.path.exists(config_file):
        is_lost = True
        _say("the job had ended, or got another trainer, before the script called flare.init()")
    elif code == ExitCode.ENDED and not has_joined and os.path.exists(config_file):
        _say("the script has ended without a call of flare.init(), and the job still waits for a trainer")
    return ExitCode.LOST if is_lost and code not in _STOPPED else code


def _outcome_of(script: str) -> Tuple[ExitCode, str]:
    """Runs a script; returns what becomes of that, and how to tell it to the job."""
    try:
        with owner_process.no_init_in_commands(api_context.ClientAPIType.EX_PROCESS_API, _NOT_IN_COMMANDS):
            owner_process.run_as_main(script)
        return ExitCode.ENDED, "it returned"
    except HandshakeError as e:
        _say(str(e))
        if not isinstance(e, Rejected):
            return ExitCode.UNREACHED, str(e)
        if _claim:
            _done.add(_claim.identity)
        return ExitCode.REJECTED, str(e)
    except Terminated:
        return ExitCode.TERMINATED, "it was terminated (SIGTERM)"
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        return ExitCode.ENDED if e.code in (None, 0) else ExitCode.FAILED, f"it exited with {e.code!r}"
    except BaseException as e:  # the script's failure is told to the job, Ctrl-C included
        traceback.print_exc()
        code = ExitCode.INTERRUPTED if isinstance(e, KeyboardInterrupt) else ExitCode.FAILED
        return code, secure_format_traceback()


def _let_go() -> None:
    """Runs in each forked child: the claim is the parent's."""
    global _claim
    if _claim:
        _claim.let_go()
        _claim = None


os.register_at_fork(after_in_child=_let_go)


def _leave(reason: str) -> Tuple[bool, bool, bool]:
    """Leaves the session; tells whether there was one, its job was lost, and a task is left without a result."""
    config_file = str(_claim.path) if _claim else api_context.DEFAULT_CONFIG
    apis = [c.api for c in owner_process.forget_contexts(lambda context: context.config_file == config_file)]
    agents = [api.flare_agent for api in apis if getattr(api, "flare_agent", None)]  # only rank 0 has one
    is_lost = any(agent.is_job_lost for agent in agents)
    is_owing = any(agent.current_task and not agent.asked_to_stop for agent in agents)
    for agent in agents:
        agent.stop(reason)
    return bool(apis), is_lost, is_owing


def _find_config(args) -> str:
    if os.environ.get("RANK", "0") == "0":
        return wait_for(args.workspace, args.job, args.site, args.wait)
    what = f"rank 0 of this launch, and its job in {args.workspace}"
    path, identity = _wait(lambda: find_ranks_file(args.workspace, args.job, args.site, _done), what, args.wait)
    _done.add(identity)
    _prepare_client_api(str(path))
    return str(path)


def _attach(args) -> int:
    """Runs the script, with --follow for one job after another; returns the ExitCode of the last run."""
    served, in_vain, restore = None, 0, owner_process.remember_process()
    while True:
        try:
            config_file = _find_config(args)
        except NobodyToAttachTo as e:
            _say(str(e))
            return ExitCode.NOBODY if served is None else served
        except FileRefused:  # the reason has been told
            return ExitCode.REFUSED if served is None else served
        began = time.monotonic()
        served = _run_script(args.path, args.script, config_file)
        if not args.follow or served in _STOPPED:
            return served
        restore()  # only now: what the script has registered for the exit runs as after any script
        was_good = served in (ExitCode.ENDED, ExitCode.LOST) and not (_claim and _claim.is_open())
        in_vain = 0 if was_good else in_vain + 1
        pause = pause_after(in_vain, time.monotonic() - began)
        if pause:
            _give_up_claim("the trainer pauses")
            if in_vain:
                _say(f"the next run of {args.script[0]} is in {pause:.1f} s, after {in_vain} in vain")
            threading.Event().wait(pause)


def pause_after(in_vain: int, seconds: float) -> float:
    """Returns the seconds to the next run, if so many in a row failed or did not join and the last took so long."""
    return max(0.0, min(FIRST_PAUSE * 2 ** min(in_vain, 10), MAX_PAUSE) - seconds)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if seconds >= 0:  # as NaN is not
            return seconds
    raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, but is {text!r}")


def _parse(argv: Optional[List[str]]):
    parser = argparse.ArgumentParser(
        prog="python -m nvflare.app_common.executors.client_api.attach",
        description="Attaches a training script to a job whose executor runs in mode attach.",
        epilog=__doc__.split("\n\n")[-1],
    )
    parser.add_argument("--workspace", required=True, help="the site's workspace, or a folder above it (no links)")
    parser.add_argument("--job", help="attach to this job only (its id)")
    parser.add_argument("--site", help="attach to this site only (its name)")
    parser.add_argument("--wait", type=_seconds, help="give up after so many seconds without a job (default: never)")
    parser.add_argument("--follow", action="store_true", help="serve one job after another")
    parser.add_argument("script", nargs=argparse.REMAINDER, help="-- script.py and its arguments")
    args = parser.parse_args(argv)
    args.script = args.script[1:] if args.script[:1] == ["--"] else args.script
    if not args.script:
        parser.error("the script is missing: -- script.py [arguments]")
    if not os.path.isfile(args.script[0]):
        parser.error(f"there is no script {args.script[0]!r}")
    for name in [name for name in ("workspace", "job", "site") if vars(args)[name] == ""]:
        parser.error(f"argument --{name}: must not be empty, but is ''")
    if not os.environ.get("RANK", "0").isdecimal():
        parser.error(f"the environment variable RANK must be a number, but is {os.environ['RANK']!r}")
    # A script may change the working directory, in which --follow has to find both again.
    args.path, args.workspace = os.path.abspath(args.script[0]), os.path.abspath(args.workspace)
    return args


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command line; returns an ExitCode. With --follow it is that of the last job that was served."""
    args = _parse(argv)
    raise_on_sigterm()
    try:
        return _attach(args)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
