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

"""What a job config's class paths name: which of nvflare's legacy parts, or a class of the job's own.

nvflare's own classes are known by their paths, without importing them: PyTorch or TensorFlow need not be installed.
A class of the job's own is imported to see what it extends.
"""

import contextlib
import importlib
import inspect
import io
import re
import sys
from pathlib import Path
from typing import Any, Union

from nvflare.apis.fl_constant import SystemVarName
from nvflare.app_common.executors.client_api.migration.knobs import LEGACY_EXECUTORS

# The one constructor argument of a legacy executor that is kept under another name than its own.
_ATTRIBUTES = {"task_wait_timeout": "task_wait_time"}
_SITE_VARIABLES = {value for name, value in vars(SystemVarName).items() if name.isupper()}
_REFERENCE = re.compile(r"\{([^{}]*)\}")
# Resolvers (`${oc.env:NAME}`) are a site's affair.
_INTERPOLATION = re.compile(r"(?<!\\)\$\{([^\s{}\[\]:.]+(?:\.[^\s{}\[\]:.]+)*)\}")
# Bounds of what references may lead to: levels, characters.
MAX_DEPTH, MAX_LENGTH = 20, 100_000


class PartError(ValueError):
    """A part of a job cannot be migrated, and why."""


class UnknownPart(PartError):
    """A class of the job's own cannot be imported, and why."""


class Variables:
    """The `{name}` references of a job config: to its own top-level keys, or to what a site fills in.

    A .yml may have OmegaConf's `${key.of.key}`, too, which are resolved before the others.
    """

    def __init__(self, data: dict, is_yaml: bool = False):
        self._data = data
        self._is_yaml = is_yaml

    def resolve(self, value: Any, depth: int = 0) -> Any:
        """Returns a value with its references resolved as nvflare does; what only a site knows stays as it is.

        Raises:
            PartError: the references go in a circle, or make a text that is too long.
        """
        if isinstance(value, list):
            return [self.resolve(item, depth) for item in value]
        if not isinstance(value, str):
            return value
        if depth > MAX_DEPTH or len(value) > MAX_LENGTH:
            raise PartError(f"the references in {value[:60]!r} go in a circle or make too long a text: write the value")
        interpolated = self._interpolated(value) if self._is_yaml else value
        if interpolated != value:
            return self.resolve(interpolated, depth + 1)
        name = value.strip()[1:-1]
        if value.strip() == f"{{{name}}}" and not set("{}") & set(name):
            if name in _SITE_VARIABLES or name[:1] in ("@", "$") or ":" in name:
                return value
            return self.resolve(self._data.get(name), depth + 1)
        names = set(_REFERENCE.findall(value))
        if not names & set(self._data) or names - set(self._data) - _SITE_VARIABLES:
            return value  # nothing to resolve, or nvflare leaves it alone because one is missing
        found = {name: str(self.resolve(self._data[name], depth + 1)) for name in names & set(self._data)}
        return self.resolve(_REFERENCE.sub(lambda m: found.get(m.group(1), m.group()), value), depth + 1)

    def _interpolated(self, value: str) -> Any:
        whole = _INTERPOLATION.fullmatch(value)
        if whole:
            return self._at(whole.group(1))
        return _INTERPOLATION.sub(lambda m: str(self._at(m.group(1))), value)

    def _at(self, path: str) -> Any:
        data = self._data
        for key in path.split("."):
            if not isinstance(data, dict) or key not in data:
                raise PartError(f"there is no key {path}, to which ${{{path}}} refers")
            data = data[key]
        return data

    def component(self, config: Any) -> dict:
        """Returns the config of a component with its own values and arguments resolved."""
        config = config if isinstance(config, dict) else {}
        result = {key: self.resolve(value) for key, value in config.items()}
        arguments = config.get("args")
        result["args"] = {k: self.resolve(v) for k, v in arguments.items()} if isinstance(arguments, dict) else {}
        return result


def class_path(config: dict) -> str:
    """Returns the class path (or, by `name`, the class name) of a component's config, "" if it has none."""
    path = config.get("path") or config.get("class_path") or config.get("name") or ""
    return path.split("#")[0].strip() if isinstance(path, str) else ""


def is_disabled(config: dict) -> bool:
    """Whether nvflare leaves a component out: its id is there, and has nothing."""
    return config.get("disabled") is True


def is_part(config: dict, *names: str) -> bool:
    """Whether the config names one of these classes of nvflare's."""
    module, _, name = class_path(config).rpartition(".")
    return name in names and (not module or module.split(".")[0] == "nvflare")


def strings(value: Any) -> list:
    """All strings in a value, keys excepted."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


# Executors that hand their tasks to a trainer that somebody else starts.
EXCHANGERS = ("TaskExchanger", "IPCExchanger", "HubExecutor")


class ExecutorPart:
    """A legacy executor in a job config.

    Attributes:
        name: of nvflare's class, one of LEGACY_EXECUTORS.
        arguments: what it is given; for a class of the job's own also what its constructor sets.
    """

    def __init__(self, name: str, arguments: dict):
        self.name = name
        self.arguments = arguments
        self.legacy = LEGACY_EXECUTORS[name]


def find_executor(config: Any, resolved: dict, custom_dir: Path) -> Union[ExecutorPart, str, None]:
    """Returns the legacy executor that a config names, the class name of an exchanger, or None.

    Args:
        config: of the executor, as it is written.
        resolved: the same, from Variables.component.
        custom_dir: of the app; its classes are imported from there.

    Raises:
        PartError: it names a class of the job's own that cannot be migrated.
        UnknownPart: it names one that cannot be imported.
    """
    path = class_path(resolved)
    arguments = dict(config["args"]) if isinstance(config, dict) and isinstance(config.get("args"), dict) else {}
    if is_part(resolved, *LEGACY_EXECUTORS):
        return ExecutorPart(path.rpartition(".")[2], arguments)
    if is_part(resolved, *EXCHANGERS):
        return path.rpartition(".")[2]
    if is_part(resolved, "LauncherExecutor"):
        raise PartError("LauncherExecutor is a base class: name one of " + ", ".join(LEGACY_EXECUTORS))
    if "." not in path or path.startswith("nvflare."):
        return None
    with _imports_from(custom_dir):
        return _find_own(path, arguments, resolved["args"])


@contextlib.contextmanager
def _imports_from(folder: Path):
    """Lets classes of a folder be imported, and forgets them afterwards; writes nothing there."""
    modules, path, writes = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, writes
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(folder)):
                del sys.modules[name]


def _find_own(path: str, arguments: dict, resolved: dict) -> Union[ExecutorPart, str, None]:
    module, _, name = path.rpartition(".")
    try:
        own = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as e:  # whatever somebody's module does
        raise UnknownPart(f"{path} cannot be imported to see what it extends: {type(e).__name__}: {e}") from e
    bases = inspect.getmro(own) if inspect.isclass(own) else ()
    known = {(legacy.module, key) for key, legacy in LEGACY_EXECUTORS.items()}
    position = next((i for i, base in enumerate(bases) if (base.__module__, base.__name__) in known), None)
    if position is None:
        if any(base.__name__ == "LauncherExecutor" for base in bases):
            raise PartError(f"{path} is a LauncherExecutor of the job's own: {OWN_BEHAVIOUR}")
        return next((base.__name__ for base in bases if base.__name__ in EXCHANGERS), None)
    if position == 0:
        return ExecutorPart(bases[0].__name__, arguments)
    names = {name for base in bases[:position] for name in vars(base)}
    own_names = sorted(name for name in names if not name.startswith("__") and name != "_abc_impl")
    if own_names:
        raise PartError(f"{path} has behaviour of its own ({', '.join(own_names)}): {OWN_BEHAVIOUR}")
    return ExecutorPart(bases[position].__name__, _arguments_set_by(own, bases[position], arguments, resolved))


OWN_BEHAVIOUR = (
    "move that into the script or a task filter, name nvflare's own executor in the config, and migrate again"
)


def _arguments_set_by(own: type, base: type, arguments: dict, resolved: dict) -> dict:
    """What the constructor of a class of the job's own gives to nvflare's; as FedJob's export finds it."""
    try:
        executor = own(**resolved)
    except Exception as e:
        raise PartError(f"{own.__name__} cannot be constructed to see its arguments: {e}") from e
    result = {}
    for name, parameter in list(inspect.signature(base.__init__).parameters.items())[1:]:
        attribute = _ATTRIBUTES.get(name, name)
        value = getattr(executor, "_" + attribute, getattr(executor, attribute, resolved.get(name, parameter.default)))
        value = getattr(value, "value", value)  # of an enum
        if name in arguments and value == resolved[name]:
            result[name] = arguments[name]
        elif value != getattr(parameter.default, "value", parameter.default):
            result[name] = value
    return result
