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

"""A job config that is changed in its text and in its data at once.

    ConfigDocument(text, syntax): text -> data (config_parse) and text -> spans (config_scan)
    set, rename, delete, insert: change the spans' text, and the data in the same way
    verified_text(): parses the changed text and compares it with the changed data

So comments, order and layout of all that is not touched stay, and an edit that would mean anything else is found.
"""

import json
import re
import textwrap
from typing import Any, Iterable, Optional, Tuple

import yaml

from nvflare.app_common.executors.client_api.migration.config_parse import parse
from nvflare.app_common.executors.client_api.migration.config_scan import (
    HOCON,
    JSON,
    YAML,
    ConfigEditError,
    Entry,
    Node,
    scan,
)

Path = Tuple  # of keys and positions, from the root

# A comment that is a piece of config which somebody has switched off.
_SWITCHED_OFF = re.compile(r"\s*(?:#|//)+\s*(?:[{}\[\]]|- |\"?[\w.@$-]+\"?\s*(?:\+?=|[:{\[]))")


class ConfigDocument:
    """One config file's text and data.

    Raises:
        ConfigEditError: on construction: the config is broken or uses a construct that cannot be edited in place.
    """

    def __init__(self, text: str, syntax: str):
        self.text = text
        self.syntax = syntax
        self._root = scan(text, syntax)  # first: it names what nvflare's parsers would follow to other files
        self.data = parse(text, syntax)
        self._check_agreement((), self._root, self.data)
        first = self._root.entries[0] if self._root.entries else None
        self._step = len(self._indent_at(first.start)) if first and syntax == JSON else 2
        self._step = self._step or 2

    def _check_agreement(self, path: Path, node: Node, data: Any) -> None:
        """The spans and nvflare's parser must see the same structure."""
        agrees = {"map": dict, "list": list}.get(node.kind) in (type(data), None)
        if node.kind == "list" and agrees:
            agrees = len(data) == len(node.entries)
        if not agrees or (node.kind == "scalar" and isinstance(data, (dict, list))):
            raise ConfigEditError(f"nvflare reads {_dotted(path)} in another way than it is written: write it plainly")
        for position, entry in enumerate(node.entries):
            key = position if node.kind == "list" else entry.key
            if node.kind == "list" or key in data:  # a dotted key of HOCON is not
                self._check_agreement((*path, key), entry.value, data[key])
            elif "." not in key:
                raise ConfigEditError(f"nvflare does not find the key {_dotted((*path, key))}: write it plainly")

    def verified_text(self) -> str:
        """Returns the changed text, which means exactly the changed data.

        Raises:
            ConfigEditError: it does not.
        """
        if parse(self.text, self.syntax) != self.data:
            raise ConfigEditError("the config's layout is too unusual to be edited in place: write it plainly")
        return self.text

    def set(self, path: Path, value: Any) -> None:
        """Replaces the value of an entry."""
        node = self._node(path)
        indent = self._indent_at(node.start)
        is_scalar = not isinstance(value, (dict, list))
        text = _flow(value) if is_scalar or self.syntax == YAML else self._render(value, indent)
        self._data(path[:-1])[path[-1]] = value
        self._apply([(node.start, node.end, text)])

    def rename(self, path: Path, key: str) -> None:
        """Gives the entry of a map another key."""
        entry = self._entry(path)
        holder = self._data(path[:-1])
        items = [(key if name == path[-1] else name, value) for name, value in holder.items()]
        holder.clear()
        holder.update(items)
        old = self.text[entry.start : entry.key_end]
        self._apply([(entry.start, entry.key_end, f'"{key}"' if old.startswith('"') else key)])

    def delete(self, path: Path, keys: Iterable) -> None:
        """Removes entries of a map or list, with the comments just above and beside them.

        What is switched off by a comment may be switched on again: it stays.
        """
        keys = set(keys)
        node, holder = self._node(path), self._data(path)
        names = [i if node.kind == "list" else entry.key for i, entry in enumerate(node.entries)]
        gone = [entry for name, entry in zip(names, node.entries) if name in keys]
        if len(gone) != len(keys):
            raise ConfigEditError(f"{_dotted(path)} has keys with a dot: write them with braces")
        kept = [entry for entry in node.entries if entry not in gone]
        for key in sorted(keys, reverse=True) if node.kind == "list" else keys:
            del holder[key]
        if gone and not kept and node.is_block:
            self._apply([self._emptied_block(path, node)])
            return
        edits = [self._removal(node, entry) for entry in gone]
        if kept and gone and node.entries[-1].comma is None and kept[-1].comma is not None:
            edits.append((kept[-1].comma, kept[-1].comma + 1, ""))
        self._apply(edits)
        node = self._node(path)
        if gone and not self.text[node.inner_start : node.inner_end].strip():  # no comment either
            self._apply([(node.inner_start, node.inner_end, "")])

    def insert(self, path: Path, key: Optional[str], value: Any, after: Optional[Any] = None) -> None:
        """Adds an entry to a map, or with key None to a list: behind the entry `after`, or first."""
        node, holder = self._node(path), self._data(path)
        if key is None:
            holder.insert(0 if after is None else after + 1, value)
        else:
            position = 0 if after is None else list(holder).index(after) + 1
            items = list(holder.items())
            items.insert(position, (key, value))
            holder.clear()
            holder.update(items)
        if not node.entries:
            self._apply(self._into_empty(path, node, key, value))
        elif after is None:
            self._apply(self._before_first(node, key, value))
        else:
            entry = node.entries[after] if key is None else node.find(after)
            self._apply(self._behind(node, entry, key, value))

    def _emptied_block(self, path: Path, node: Node) -> tuple:
        """A block of YAML without entries; what is said beside its key stays."""
        colon = self.text.index(":", self._entry(path).key_end)
        leads = [self.text[self._lead_start(node, entry) : self._line_start(entry.start)] for entry in node.entries]
        left = "".join("\n" + lead.rstrip("\n") for lead in leads if self._is_switched_off(lead))
        beside = self.text[colon + 1 : self._line_end(colon)].rstrip()
        empty = (" []" if node.kind == "list" else " {}") + (beside if self._is_comment(beside) else "")
        rest = self._line_end(node.end)
        return colon + 1, rest if self._is_comment(self.text[node.end : rest]) else node.end, empty + left

    # Finding

    def _entry(self, path: Path) -> Optional[Entry]:
        entry, node = None, self._root
        for key in path:
            if node.kind == "list":
                entry = node.entries[key]
            else:
                entry = node.find(key)
            if entry is None:
                raise ConfigEditError(f"{_dotted(path)} is written with a dotted key: write it with braces")
            node = entry.value
        return entry

    def _node(self, path: Path) -> Node:
        return self._entry(path).value if path else self._root

    def _data(self, path: Path) -> Any:
        data = self.data
        for key in path:
            data = data[key]
        return data

    def _line_start(self, position: int) -> int:
        return self.text.rfind("\n", 0, position) + 1

    def _line_end(self, position: int) -> int:
        end = self.text.find("\n", position)
        return len(self.text) if end < 0 else end

    def _indent_at(self, position: int) -> str:
        line = self.text[self._line_start(position) : self._line_end(position)]
        return line[: len(line) - len(line.lstrip())]

    def _begins_line(self, position: int) -> bool:
        return not self.text[self._line_start(position) : position].strip()

    def _is_comment(self, text: str) -> bool:
        markers = {HOCON: ("#", "//"), YAML: ("#",), JSON: ()}[self.syntax]
        return text.strip().startswith(markers) if markers else False

    def _is_switched_off(self, comments: str) -> bool:
        return any(_SWITCHED_OFF.match(line) for line in comments.splitlines())

    def _lead_start(self, node: Node, entry: Entry) -> int:
        """The start of the line of an entry, or of the comment lines just above it."""
        above_first = 0 if node.is_block else node.inner_start  # a block starts with its first key
        floor = max([above_first] + [other.end for other in node.entries if other.end <= entry.start])
        start = self._line_start(entry.start)
        while start - 1 > floor:
            above = self._line_start(start - 1)
            if above <= floor or not self._is_comment(self.text[above : start - 1]):
                break
            start = above
        return start

    # Changing

    def _apply(self, edits: list) -> None:
        left, at = "", 0
        for start, end, text in sorted(edits, key=lambda edit: edit[:2]):
            left += self.text[at : max(at, start)] + text  # what two removals share is removed once
            at = max(at, end)
            if not text:
                left, at = self._without_blank_lines(left, at)
        self.text = left + self.text[at:]
        self._root = scan(self.text, self.syntax)

    def _without_blank_lines(self, left: str, at: int) -> Tuple[str, int]:
        """Where something was removed no two blank lines shall meet, and none a bracket."""
        next_line = self.text[at : self._line_end(at)]
        if left.endswith(("[", "{")) and next_line.strip():
            return left, at + len(next_line) - len(next_line.lstrip())
        if left.endswith("\n\n") and next_line.strip().startswith(("]", "}")):
            return left[:-1], at
        is_after_blank = left.endswith("\n\n") or left.rstrip().endswith(("[", "{"))
        if left.endswith("\n") and is_after_blank and not next_line.strip():
            at = min(self._line_end(at) + 1, len(self.text))
        return left, at

    def _removal(self, node: Node, entry: Entry) -> tuple:
        start, end = entry.start, entry.end if entry.comma is None else entry.comma + 1
        rest = self.text[end : self._line_end(end)]
        if self._begins_line(start) and (not rest.strip() or self._is_comment(rest)):
            lead, start = self._lead_start(node, entry), self._line_start(start)
            is_kept = self._is_switched_off(self.text[lead:start])
            return start if is_kept else lead, min(self._line_end(end) + 1, len(self.text)), ""
        if node.is_block:
            raise ConfigEditError("the first key beside a dash cannot be removed in place: write it plainly")
        if entry is node.entries[0]:
            return start, end + len(rest) - len(rest.lstrip()), ""
        return len(self.text[:start].rstrip()), end, ""

    def _behind(self, node: Node, entry: Entry, key: Optional[str], value: Any) -> list:
        indent = self._indent_of(entry)
        if node.is_block:
            at = self._line_end(entry.end)
            return [(at, at, "\n" + self._block(indent, key, value))]
        end = entry.end if entry.comma is None else entry.comma + 1
        rest = self.text[end : self._line_end(end)]
        if self._begins_line(entry.start) and (not rest.strip() or self._is_comment(rest)):
            at, new = self._line_end(end), "\n" + indent + self._bracketed(indent, key, value)
        else:
            at, new = end, " " + self._bracketed(None, key, value)
        if entry.comma is not None:
            return [(at, at, new + ",")]
        needs_comma = self.syntax != HOCON or not self._begins_line(entry.start)
        return [(entry.end, entry.end, ","), (at, at, new)] if needs_comma else [(at, at, new)]

    def _before_first(self, node: Node, key: Optional[str], value: Any) -> list:
        first = node.entries[0]
        indent = self._indent_of(first)
        if node.is_block:
            if self._begins_line(first.start):
                at = self._lead_start(node, first)
                return [(at, at, self._block(indent, key, value) + "\n")]
            return [(first.start, first.start, self._block(indent, key, value).lstrip() + "\n" + indent)]
        if not self._begins_line(first.start):
            return [(first.start, first.start, self._bracketed(None, key, value) + ", ")]
        separator = "" if self.syntax == HOCON and first.comma is None else ","
        at = self._lead_start(node, first)
        return [(at, at, indent + self._bracketed(indent, key, value) + separator + "\n")]

    def _into_empty(self, path: Path, node: Node, key: Optional[str], value: Any) -> list:
        outer = self._indent_at(node.start)
        if self.syntax == YAML:
            return [(node.inner_start, node.inner_end, self._bracketed(None, key, value))]
        indent = outer + " " * self._step
        inner = self.text[node.inner_start : node.inner_end].rstrip()  # comments may be there
        new = "\n" + indent + self._bracketed(indent, key, value)
        return [(node.inner_start, node.inner_end, inner + new + "\n" + outer)]

    # Writing

    def _indent_of(self, entry: Entry) -> str:
        if self.syntax == YAML:  # where a key may stand beside a dash
            return " " * (entry.start - self._line_start(entry.start))
        return self._indent_at(entry.start)

    def _bracketed(self, indent: Optional[str], key: Optional[str], value: Any) -> str:
        """The text of an entry in JSON, HOCON or YAML's flow style; on one line if indent is None."""
        rendered = _flow(value) if indent is None or self.syntax == YAML else self._render(value, indent)
        if key is None:
            return rendered
        if self.syntax == HOCON:
            return f"{key} {rendered}" if isinstance(value, dict) else f"{key} = {rendered}"
        return f'"{key}": {rendered}'

    def _block(self, indent: str, key: Optional[str], value: Any) -> str:
        """The lines of an entry in YAML's block style."""
        if key is not None and not (isinstance(value, (dict, list)) and value):
            return f"{indent}{key}: {_flow(value)}"
        content = [value] if key is None else {key: value}
        dumped = yaml.safe_dump(content, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10**6)
        return textwrap.indent(dumped.rstrip("\n"), indent)

    def _render(self, value: Any, indent: str) -> str:
        inner = indent + " " * self._step
        if self.syntax == JSON:
            lines = json.dumps(value, indent=self._step, ensure_ascii=False)
            return lines.replace("\n", "\n" + indent)
        if isinstance(value, dict) and value:
            lines = [inner + self._bracketed(inner, key, item) for key, item in value.items()]
            return "{\n" + "\n".join(lines) + f"\n{indent}}}"
        if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
            return "[\n" + "\n".join(inner + self._render(item, inner) for item in value) + f"\n{indent}]"
        return _flow(value)


def _flow(value: Any) -> str:
    # pyhocon does not read \u escapes, and needs none.
    return json.dumps(value, ensure_ascii=False)


def _dotted(path: Path) -> str:
    return ".".join(str(key) for key in path) or "the config"
