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
import difflib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import List, Optional

from nvflare.app_common.executors.client_api.migration.app import Migrated, migrate_config
from nvflare.app_common.executors.client_api.migration.config_edit import ConfigEditError
from nvflare.app_common.executors.client_api.migration.config_scan import HOCON, JSON, YAML
from nvflare.app_common.executors.client_api.migration.job import Row
from nvflare.app_common.executors.client_api.migration.knobs import knob_table
from nvflare.fuel.utils.config import ConfigFormat

TARGETS = ("2.8", "2.9")
OK, NOT_MIGRATED, USAGE = 0, 1, 2

CONFIG_NAME = "config_fed_client"
MAX_CONFIG_BYTES = 4 * 1024 * 1024
_SYNTAX = {ConfigFormat.JSON: JSON, ConfigFormat.PYHOCON: HOCON, ConfigFormat.OMEGACONF: YAML}
_WIDTHS = (36, 36, 40, 8, 36)  # of the report's columns but the last, at most; what is longer is cut

_HELP = """\
Replaces nvflare 2.8's legacy Client API executors, their launchers, pipes, metric relays and configurators in the
client configs of a job by ClientAPIExecutor. JOB_DIR is a job, one app of a job, or a folder that has
config_fed_client.json, .conf or .yml directly in it. Without --diff, --out or --in-place it only reports.

An executor class of the job's own is imported from the app's custom folder, to see what it extends."""

_EXIT_CODES = """\
exit codes: 0 all is migrated, or there was nothing to do; 1 something could not be migrated, and nothing was written;
2 wrong usage, or no job in JOB_DIR"""


class MigrationError(Exception):
    """What ends the run: one line for the user, and the exit code."""

    def __init__(self, message: str, code: int = NOT_MIGRATED):
        super().__init__(message)
        self.code = code


class ClientConfig:
    """The client config of one app: its file as it was read, and what it becomes."""

    def __init__(self, path: Path, syntax: str):
        self.path = path
        self.content = _read(path)
        self.mode = path.stat().st_mode & 0o7777
        self._syntax = syntax
        try:
            text = self.content.decode("utf-8")
        except UnicodeDecodeError as e:
            raise MigrationError(f"{path} is not a text file: {e}") from e
        self._line_end = "\r\n" if "\r\n" in text else "\n"
        self._text = text.replace("\r\n", "\n")
        self.result = Migrated(self._text, [])

    def migrate(self, target: str) -> None:
        folder = self.path.parent
        custom_dir = (folder.parent if folder.name == "config" else folder) / "custom"
        try:
            self.result = migrate_config(self._text, self._syntax, target, custom_dir)
        except ConfigEditError as e:
            raise MigrationError(f"{self.path}: {e}") from e

    @property
    def has_changed(self) -> bool:
        return self.result.text != self._text

    @property
    def new_content(self) -> bytes:
        return self.result.text.replace("\n", self._line_end).encode("utf-8")

    def diff(self, name: str) -> str:
        lines = [text.splitlines(keepends=True) for text in (self._text, self.result.text)]
        return "".join(
            line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
            for line in difflib.unified_diff(*lines, f"a/{name}", f"b/{name}")
        )

    def check_unchanged(self) -> None:
        if _read(self.path) != self.content:
            raise MigrationError(f"{self.path} has changed meanwhile: nothing was written")


def _read(path: Path) -> bytes:
    if path.is_symlink():
        raise MigrationError(f"{path} is a symbolic link: migrate the job that it leads to")
    try:
        if not path.is_file() or path.stat().st_size > MAX_CONFIG_BYTES:
            raise MigrationError(f"{path} is not a file of at most {MAX_CONFIG_BYTES} bytes")
        return path.read_bytes()
    except OSError as e:
        raise MigrationError(f"{path} cannot be read: {e.strerror}") from e


def find_configs(job_dir: Path) -> List[ClientConfig]:
    """Returns the client configs of all apps in a folder, each the one that nvflare takes if there are several.

    Raises:
        MigrationError: there is none, or one cannot be read.
    """
    if not job_dir.is_dir():
        raise MigrationError(f"{job_dir} is not a folder", USAGE)
    configs = []
    try:
        folders = [job_dir, job_dir / "config", *sorted(job_dir.glob("*/config"))]
        for folder in folders:
            for extension, config_format in ConfigFormat.config_ext_formats().items():
                path = folder / (CONFIG_NAME + extension)
                if path.exists() or path.is_symlink():
                    configs.append(ClientConfig(path, _SYNTAX[config_format]))
                    break
    except OSError as e:
        raise MigrationError(f"{job_dir} cannot be read: {e.strerror}", USAGE) from e
    if not configs:
        places = f"{job_dir}, {job_dir}/config and {job_dir}/*/config"
        raise MigrationError(f"no job: there is no {CONFIG_NAME}.json, .conf or .yml in {places}", USAGE)
    return configs


# Writing


def write_in_place(configs: List[ClientConfig]) -> None:
    """Replaces the configs that have changed: all of them, or none.

    Raises:
        MigrationError: none was replaced, and why.
    """
    changed = [config for config in configs if config.has_changed]
    written, replaced = [], []
    try:
        for config in changed:
            written.append(_write_beside(config.path, config.new_content, config.mode))
        for config in changed:
            config.check_unchanged()
        for config, temporary in zip(changed, written):
            os.replace(temporary, config.path)
            replaced.append(config)
    except BaseException as e:  # an interrupt must not leave a part of it either
        for config in replaced:
            os.replace(_write_beside(config.path, config.content, config.mode), config.path)
        if isinstance(e, OSError):
            raise MigrationError(f"nothing was written: {e}") from e
        raise
    finally:
        for temporary in written:
            Path(temporary).unlink(missing_ok=True)


def _write_beside(path: Path, content: bytes, mode: int) -> str:
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(content)
            os.fchmod(f.fileno(), mode)
    except BaseException:
        os.remove(temporary)
        raise
    return temporary


def write_copy(job_dir: Path, configs: List[ClientConfig], out: Path) -> None:
    """Copies the job with its configs migrated: the copy is there as a whole, or not at all.

    Raises:
        MigrationError: it could not be written, and why.
    """
    if out.exists() or out.is_symlink():
        raise MigrationError(f"{out} is there already", USAGE)
    if job_dir.resolve() in out.resolve().parents:
        raise MigrationError(f"{out} is in {job_dir} itself", USAGE)
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        copy = temporary / "job"
        shutil.copytree(job_dir, copy, symlinks=True)
        for config in configs:
            config.check_unchanged()
            if config.has_changed:
                (copy / config.path.relative_to(job_dir)).write_bytes(config.new_content)
        os.rename(copy, out)
    except (OSError, shutil.Error) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise MigrationError(f"{out} cannot be written: {reason}") from e
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


# Reporting


def report(config: ClientConfig, name: str) -> str:
    """Returns the table of one config."""
    lines = [f"{name}:"]
    if not config.result.rows:
        lines.append("  nothing to migrate: it has no legacy Client API executor")
    table = [_columns(row) for row in config.result.rows]
    widths = [min(limit, max(map(len, column))) for limit, column in zip(_WIDTHS, zip(*table))]
    for row, columns in zip(config.result.rows, table):
        cells = [_cell(text, width) for text, width in zip(columns, widths)]
        lines.append("  " + "  ".join([*cells, row.why]).rstrip())
    return "\n".join(lines)


def _columns(row: Row) -> tuple:
    value = "" if row.value is None else repr(row.value)
    becomes = f"-> {row.becomes}" if row.becomes and row.becomes != row.name else ""
    return row.where, row.name, value, row.fate, becomes


def _cell(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 3] + "..."


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
    for config in configs:
        name = str(config.path.relative_to(job_dir))
        print(report(config, name), file=to)
        if diff:
            print(config.diff(name), end="")
    refused = [config for config in configs if config.result.is_refused]
    if refused:
        raise MigrationError(f"{len(refused)} of {len(configs)} configs cannot be migrated: see what is refused above")
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


def main(argv: Optional[List[str]] = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m nvflare.app_common.executors.client_api.migrate",
        description=_HELP,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job_dir", metavar="JOB_DIR", nargs="?", type=Path)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--diff", action="store_true", help="print the differences, and the report on stderr")
    action.add_argument("--out", metavar="DIR", type=Path, help="write a migrated copy of the job; DIR must not exist")
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
