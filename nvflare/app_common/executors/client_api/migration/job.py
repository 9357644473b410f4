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

"""One app's client config while its migration is planned: what it has, what is to become of it, and the report.

The planners (plan.py, formats.py, components.py) read a LegacyJob and add to its lists; app.py edits the document by
these lists.
"""

from pathlib import Path
from typing import Any, Iterable, List, NamedTuple, Optional

from nvflare.app_common.executors.client_api.migration.advice import unknown_component
from nvflare.app_common.executors.client_api.migration.config_edit import ConfigDocument
from nvflare.app_common.executors.client_api.migration.config_scan import YAML
from nvflare.app_common.executors.client_api.migration.knobs import REFUSED
from nvflare.app_common.executors.client_api.migration.parts import PartError, Variables, is_disabled


class Row(NamedTuple):
    """A line of the report: what became of one argument, key or component."""

    where: str
    name: str
    value: Any
    fate: str
    becomes: str
    why: str


class ServerConfig(NamedTuple):
    """A config of the job's server: read, and never changed."""

    name: str  # its path in the job
    data: dict
    problem: str  # why it could not be read


class Surroundings(NamedTuple):
    """What is around a client config."""

    custom_dir: Path  # of the app; classes of the job's own are imported from there
    has_job_keys: bool  # whether the file is where the legacy executors look for the job's keys
    servers: List[ServerConfig]


class NewArgument(NamedTuple):
    """An argument of a new executor."""

    name: str
    value: Any
    old_name: Optional[str] = None  # of the legacy argument that it comes from


class NewExecutor(NamedTuple):
    """What a legacy executor becomes."""

    position: int  # in the config's executors
    arguments: List[NewArgument]


class NewFilter(NamedTuple):
    """A filter that converts as a legacy executor did."""

    section: str
    converter_id: str
    tasks: List[str]


class LegacyJob:
    """The config, and what the planners have decided.

    Raises:
        PartError: its lists are none, or its references cannot be resolved.
    """

    def __init__(self, document: ConfigDocument, target: str, surroundings: Surroundings):
        self.document = document
        self.target = target
        self.surroundings = surroundings
        self.variables = Variables(document.data, document.syntax == YAML)
        self.components = {}  # id -> config, references resolved
        for config in self.entries("components"):
            resolved = self.variables.component(config)
            if isinstance(resolved.get("id"), str):
                self.components[resolved["id"]] = resolved
        self.others: List[Any] = []  # configs of the executors that stay
        self.candidates = {}  # id of a component that may go -> why
        self.formats = None  # the three formats, once an executor has set them

        self.rows: List[Row] = []
        self.executors: List[NewExecutor] = []
        self.job_keys = {}  # to be added
        self.dropped_keys: List[str] = []
        self.filters: List[NewFilter] = []
        self.dropped: List[str] = []  # ids of components

    @property
    def data(self) -> dict:
        return self.document.data

    @property
    def is_refused(self) -> bool:
        return any(row.fate == REFUSED for row in self.rows)

    def entries(self, key: str) -> list:
        """Returns one of the config's lists of maps."""
        value = self.data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise PartError(f"{key} must be a list of maps, but is {str(value)[:200]}")
        return value

    def resolve(self, value: Any) -> Any:
        return self.variables.resolve(value)

    def component(self, component_id: Any) -> Optional[dict]:
        """Returns a component's config, references resolved; None if it is not there, or disabled."""
        return self.active.get(component_id) if self.has(component_id) else None

    def has(self, component_id: Any) -> bool:
        return isinstance(component_id, str) and component_id in self.components

    @property
    def active(self) -> dict:
        """The components that nvflare makes."""
        return {component_id: config for component_id, config in self.components.items() if not is_disabled(config)}

    def why_missing(self, component_id: Any, known: Iterable[str] = ()) -> str:
        """Tells why there is no such component; a similar one of those that are known is probably meant."""
        if self.has(component_id):
            return f"component {component_id!r} is disabled: enable it, or name another one, and migrate again"
        return unknown_component(str(component_id), known or self.components)

    def written_arguments(self, component_id: str) -> dict:
        """Returns a component's arguments as they are written."""
        for config in self.entries("components"):
            if self.resolve(config.get("id")) == component_id:
                return config["args"] if isinstance(config.get("args"), dict) else {}
        return {}

    def may_go(self, component_id: Any, why: str) -> None:
        """Lets a component go, unless something that stays refers to it."""
        if self.has(component_id):
            self.candidates.setdefault(component_id, why)

    def report(self, where: str, name: str, value: Any, fate: str, becomes: Optional[str] = "", why: str = "") -> None:
        self.rows.append(Row(where, name, value, fate, becomes or "", why))

    def refuse(self, where: str, name: str, value: Any, advice: str) -> None:
        self.report(where, name, value, REFUSED, "", advice)


def executor_place(position: int) -> str:
    return f"executors[{position}]"


def component_place(component_id: Any) -> str:
    return f"component {component_id}"
