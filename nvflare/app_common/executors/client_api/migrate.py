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

"""Moves existing jobs over: legacy Client API executors out, ClientAPIExecutor in.

    python -m nvflare.app_common.executors.client_api.migrate JOB_DIR [--diff | --out DIR | --in-place]

Finds the client config of every app, has migration.app migrate its text, and reports; files are written only when all
apps could be migrated, and never in halves. The guide is docs/migration.md.
"""

import argparse
import io
import sys
from pathlib import Path
from typing import List, Optional

from nvflare.app_common.executors.client_api.migration.job import Row, ServerConfig
from nvflare.app_common.executors.client_api.migration.job_folder import (
    NOT_MIGRATED,
    OK,
    USAGE,
    MigrationError,
    find_configs,
    find_servers,
    write_copy,
    write_in_place,
)
from nvflare.app_common.executors.client_api.migration.knobs import NOTE, REFUSED, knob_table
from nvflare.app_common.executors.client_api.migration.target import gone_of_server

TARGETS = ("2.8", "2.9")

_WIDTHS = (36, 36, 40, 8, 36)  # of the report's columns but the last, at most; what is longer is cut

_HELP = """\
Replaces nvflare 2.8's legacy Client API executors, their launchers, pipes, metric relays and configurators in the
client configs of a job by ClientAPIExecutor. JOB_DIR is a job, one app of a job, or a folder that has
config_fed_client.json, .conf or .yml directly in it. Without --diff, --out or --in-place it only reports.

An executor class of the job's own is imported from the app's custom folder, to see what it extends: that runs code of
the job."""

_EXIT_CODES = f"""\
exit codes: {OK} all is migrated, or there was nothing to do; {NOT_MIGRATED} something could not be migrated, and
nothing was written; {USAGE} wrong usage, or no job in JOB_DIR"""


# Reporting


def report(name: str, rows: List[Row]) -> str:
    """Returns the table of one config."""
    lines = [f"{name}:"]
    if not rows:
        lines.append("  nothing to migrate: it has no legacy Client API executor")
    table = [_columns(row) for row in rows]
    widths = [min(limit, max(map(len, column))) for limit, column in zip(_WIDTHS, zip(*table))]
    for row, columns in zip(rows, table):
        cells = [_cell(text, width) for text, width in zip(columns, widths)]
        lines.append("  " + "  ".join([*cells, row.why]).rstrip())
    return "\n".join(lines)


def _columns(row: Row) -> tuple:
    value = "" if row.value is None else repr(row.value)
    becomes = f"-> {row.becomes}" if row.becomes and row.becomes != row.name else ""
    return row.where, row.name, value, row.fate, becomes


def _cell(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 3] + "..."


def server_rows(server: ServerConfig, target: str) -> List[Row]:
    """What is to be said of a server config, which stays as it is."""
    if server.problem:
        return [Row("config", "", None, NOTE, "", f"not looked at: {server.problem}")]
    gone = gone_of_server(server.data) if target == "2.9" else []
    return [Row("server", "path", path, REFUSED, "", advice) for path, advice in gone]


def run(job_dir: Path, target: str, out: Optional[Path], in_place: bool, diff: bool) -> int:
    """Migrates a job; prints the report, or the differences and the report on stderr.

    Returns:
        the exit code.

    Raises:
        MigrationError: as the exit codes say.
    """
    configs = find_configs(job_dir)
    for config in configs:
        config.migrate(target)
    to = sys.stderr if diff else sys.stdout
    tables = []
    for config in configs:
        name = str(config.path.relative_to(job_dir))
        tables.append(config.result.rows)
        print(report(name, config.result.rows), file=to)
        if diff:
            print(config.diff(name), end="")
    for server in find_servers(job_dir):
        rows = server_rows(server, target)
        if rows:
            tables.append(rows)
            print(report(server.name, rows), file=to)
    refused = sum(any(row.fate == REFUSED for row in rows) for rows in tables)
    if refused:
        raise MigrationError(f"{refused} of {len(tables)} configs cannot be migrated: see what is refused above")
    changed = sum(config.has_changed for config in configs)
    done = f"{changed} of {len(configs)} configs to be changed, nothing was written"
    if out:
        write_copy(job_dir, configs, out)
        done = f"{changed} of {len(configs)} configs changed, in {out}"
    elif in_place:
        write_in_place(configs)
        done = f"{changed} of {len(configs)} configs changed"
    print(done if changed else f"{done}: there was nothing to migrate", file=to)
    return OK


def _folder(text: str) -> Path:
    if not text:  # of a variable that is not set; Path("") is the working directory
        raise argparse.ArgumentTypeError("must be a folder, but is ''")
    return Path(text)


def main(argv: Optional[List[str]] = None) -> int:
    """The command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a job may have characters that a terminal has not
    parser = argparse.ArgumentParser(
        prog="python -m nvflare.app_common.executors.client_api.migrate",
        description=_HELP,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job_dir", metavar="JOB_DIR", nargs="?", type=_folder)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--diff", action="store_true", help="print the differences, and the report on stderr")
    action.add_argument(
        "--out", metavar="DIR", type=_folder, help="write a migrated copy of the job; DIR must not exist"
    )
    action.add_argument("--in-place", action="store_true", help="change the job's configs: all of them, or none")
    action.add_argument("--knobs", action="store_true", help="print what becomes of each argument, as a Markdown table")
    parser.add_argument("--target", choices=TARGETS, default="2.8", help="the nvflare that is to run it (default 2.8)")
    args = parser.parse_args(argv)
    if args.knobs:
        print(knob_table(), end="")
        return OK
    if args.job_dir is None:
        parser.error("JOB_DIR is missing")
    try:
        return run(args.job_dir, args.target, args.out, args.in_place, args.diff)
    except MigrationError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.code
    except OSError as e:  # such as a report that nobody reads to its end
        print(f"error: {e}", file=sys.stderr)
        return NOT_MIGRATED


if __name__ == "__main__":
    sys.exit(main())
