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

"""The folder of a job: where nvflare looks for an app's configs, and how the migrated ones are written.

find_configs(job_dir) -> client configs of all apps, each with what is around it
write_in_place(configs), write_copy(job_dir, configs, out): all of them, or none
"""

import difflib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Iterator, List, NamedTuple, Tuple

from nvflare.apis.fl_constant import JobConstants
from nvflare.app_common.executors.client_api.migration.app import Migrated, migrate_config
from nvflare.app_common.executors.client_api.migration.config_parse import parse
from nvflare.app_common.executors.client_api.migration.config_scan import HOCON, JSON, YAML, ConfigEditError
from nvflare.app_common.executors.client_api.migration.job import Row, ServerConfig, Surroundings
from nvflare.app_common.executors.client_api.migration.knobs import NOTE
from nvflare.fuel.utils.config import ConfigFormat
from nvflare.lighter.tool_consts import NVFLARE_SIG_FILE

OK, NOT_MIGRATED, USAGE = 0, 1, 2
MAX_CONFIG_BYTES = 4 * 1024 * 1024
_SYNTAX = {ConfigFormat.JSON: JSON, ConfigFormat.PYHOCON: HOCON, ConfigFormat.OMEGACONF: YAML}
_MARK = "\ufeff"
_STALE_SIGNATURE = (
    "signed as it was before: submit_job signs the whole job anew; handed over in any other way, sign it again, or the "
    "server refuses the job"
)


class MigrationError(Exception):
    """What ends the run: one line for the user, and the exit code."""

    def __init__(self, message: str, code: int = NOT_MIGRATED):
        super().__init__(message)
        self.code = code


class ClientConfig:
    """The client config of one app: its file as it was read, and what it becomes.

    Args:
        path: of the file.
        syntax: one of config_scan's.
        app: the folder of the app.
        servers: the server configs of the job.
    """

    def __init__(self, path: Path, syntax: str, app: Path, servers: List[ServerConfig]):
        self.path = path
        self.content = _read(path)
        self.mode = path.stat().st_mode & 0o7777
        self._syntax = syntax
        # The one place where the legacy executors look for the job's keys.
        has_job_keys = path.name == JobConstants.CLIENT_JOB_CONFIG and path.parent in (app, app / "config")
        self._surroundings = Surroundings(app / "custom", has_job_keys, servers)
        self._text, self._form = _decode(path, self.content, syntax)
        self.result = Migrated(self._text, [])

    def migrate(self, target: str) -> None:
        try:
            self.result = migrate_config(self._text, self._syntax, target, self._surroundings)
        except ConfigEditError as e:
            raise MigrationError(f"{self.path}: {e}") from e
        if self.has_changed and (self.path.parent / NVFLARE_SIG_FILE).exists():
            self.result.rows.append(Row("config", NVFLARE_SIG_FILE, None, NOTE, "", _STALE_SIGNATURE))

    @property
    def has_changed(self) -> bool:
        return self.result.text != self._text

    @property
    def new_content(self) -> bytes:
        return (self._form.mark + self.result.text.replace("\n", self._form.line_end)).encode("utf-8")

    def diff(self, name: str) -> str:
        lines = [text.splitlines(keepends=True) for text in (self._text, self.result.text)]
        return "".join(
            line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
            for line in difflib.unified_diff(*lines, f"a/{name}", f"b/{name}")
        )

    def check_unchanged(self) -> None:
        if _read(self.path) != self.content:
            raise MigrationError(f"{self.path} has changed meanwhile: nothing was written")


class _Form(NamedTuple):
    """What a file has besides its text."""

    mark: str  # a byte order mark, or nothing
    line_end: str


def _decode(path: Path, content: bytes, syntax: str) -> Tuple[str, _Form]:
    """Returns the text, with plain line ends if all are of one kind, and what the file has besides."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as e:
        raise MigrationError(f"{path} is not a text file: {e}") from e
    mark = _MARK if text.startswith(_MARK) else ""
    if mark and syntax != YAML:
        raise MigrationError(f"{path} begins with a byte order mark, and nvflare cannot read it: save it without one")
    text = text[len(mark) :]
    if "\n" not in text.replace("\r\n", ""):
        return text.replace("\r\n", "\n"), _Form(mark, "\r\n" if "\r\n" in text else "\n")
    return text, _Form(mark, "\n")


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
    try:
        servers = find_servers(job_dir)
        configs = [ClientConfig(*found, servers) for found in _find(job_dir, JobConstants.CLIENT_JOB_CONFIG)]
    except OSError as e:
        raise MigrationError(f"{e.filename or job_dir} cannot be read: {e.strerror}", USAGE) from e
    if not configs:
        places = f"{job_dir}, {job_dir}/config, {job_dir}/* and {job_dir}/*/config"
        name = Path(JobConstants.CLIENT_JOB_CONFIG).stem
        jobs = sorted({path.parents[2] for path in job_dir.glob(f"*/*/config/{name}.*")})
        advice = f"; migrate the jobs in it one by one, such as {jobs[0]}" if jobs else ""
        raise MigrationError(f"no job: there is no {name}.json, .conf or .yml in {places}{advice}", USAGE)
    return configs


def find_servers(job_dir: Path) -> List[ServerConfig]:
    """Returns the server configs of all apps in a folder, which are read and never changed."""
    servers = []
    for path, syntax, _ in _find(job_dir, JobConstants.SERVER_JOB_CONFIG):
        try:
            data, problem = parse(_decode(path, _read(path), syntax)[0], syntax), ""
        except (MigrationError, ConfigEditError) as e:
            data, problem = {}, str(e)
        servers.append(ServerConfig(str(path.relative_to(job_dir)), data, problem))
    return servers


def _find(job_dir: Path, name: str) -> Iterator[tuple]:
    """Yields path, syntax and app of each config of this name, once.

    An app has it somewhere in its config folder; templates of jobs and of apps have it directly in theirs.
    """
    apps = sorted(path for path in job_dir.iterdir() if path.is_dir() and path.name != "config")
    folders = [(job_dir, False), (job_dir / "config", True)]
    folders += [place for app in apps for place in ((app, False), (app / "config", True))]
    seen = set()
    for folder, is_deep in folders:
        path, config_format = _first_config(folder, name, is_deep)
        if path is None or path.resolve() in seen:
            continue
        seen.add(path.resolve())
        if job_dir.resolve() not in path.parent.resolve().parents and job_dir.resolve() != path.parent.resolve():
            raise MigrationError(f"{path} is in a symbolic link out of the job: migrate the job that it leads to")
        yield path, _SYNTAX[config_format], folder.parent if folder.name == "config" else folder


def _first_config(folder: Path, name: str, is_deep: bool) -> tuple:
    """As nvflare's ConfigFactory: the kind of file decides first, then the depth."""
    for extension, config_format in ConfigFormat.config_ext_formats().items():
        wanted = Path(name).stem + extension
        if (folder / wanted).exists() or (folder / wanted).is_symlink():
            return folder / wanted, config_format
        for root, _, files in os.walk(folder) if is_deep else ():
            if wanted in files:
                return Path(root) / wanted, config_format
    return None, None


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
        _make_folders_writable(copy)
        _lead_links_anew(job_dir.resolve(), copy, out.resolve())
        for config in configs:
            config.check_unchanged()
            if config.has_changed:
                path = copy / config.path.relative_to(job_dir)
                os.replace(_write_beside(path, config.new_content, config.mode), path)
        os.rename(copy, out)
    except (OSError, shutil.Error) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise MigrationError(f"{out} cannot be written: {reason}") from e
    finally:
        if temporary:
            _make_folders_writable(temporary)
            shutil.rmtree(temporary, ignore_errors=True)


def _make_folders_writable(copy: Path) -> None:
    """Of a job that is read-only: so that its copy can be changed, moved, signed and removed."""
    for root, _, _ in os.walk(copy):
        os.chmod(root, os.stat(root).st_mode & 0o7777 | stat.S_IRWXU)


def _lead_links_anew(job_dir: Path, copy: Path, out: Path) -> None:
    """Has the links of a copy lead where those of the job do: in the copy if that is in the job."""
    for root, folders, files in os.walk(job_dir):
        for path in (Path(root) / name for name in folders + files):
            if not path.is_symlink():
                continue
            place = path.relative_to(job_dir)
            leads_to = Path(os.path.normpath(path.parent / os.readlink(path)))
            if job_dir in leads_to.parents or leads_to == job_dir:
                leads_to = out / leads_to.relative_to(job_dir)
            elif os.path.isabs(os.readlink(path)):
                continue
            (copy / place).unlink()
            (copy / place).symlink_to(os.path.relpath(leads_to, (out / place).parent))
