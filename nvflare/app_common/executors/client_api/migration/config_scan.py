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

"""Where the parts of a job config are in its text, so that one part can be changed and every other byte stays.

`scan(text, syntax)` returns the tree of a .json, .conf (HOCON) or .yml file as nodes with spans. It knows where values
begin and end, not what they mean: values are nvflare's own parser's affair. A construct with which a value may come
from elsewhere than its own span (include, substitution of objects, +=, anchors) is refused.
"""

import re
from dataclasses import dataclass, field
from typing import List, Optional

import yaml

JSON, HOCON, YAML = "JSON", "HOCON", "YAML"

# With its dots: `args.x = 1` is an entry of its own here.
_HOCON_KEY = re.compile(r"[^\s\"{}\[\]=:,+#$`^?!*&\\]+")
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_TRIPLE_QUOTED = re.compile(r'"""(?:.|\n)*?"""')
_UNQUOTED = re.compile(r"(?:(?!//)[^\n,{}\[\]#\"])+")

# Of OmegaConf, in a .yml: relative, or into the lists in which entries move.
_MOVING_REFERENCE = re.compile(
    r"(?<!\\)\$\{\s*(?:\.|\[|(?:executors|components|task_data_filters|task_result_filters)[.\[])[^}]*\}?"
)


class ConfigEditError(ValueError):
    """The config cannot be read, or not be changed in place; says why and, as far as it is known, in which line."""


@dataclass
class Node:
    """A value. Of a map or list: `inner_start` is just behind its opening bracket, or the start of its first entry."""

    kind: str  # "map", "list" or "scalar"
    start: int
    end: int
    entries: List["Entry"] = field(default_factory=list)
    inner_start: int = 0
    inner_end: int = 0
    is_block: bool = False  # YAML block style: no brackets, no commas

    def find(self, key: str) -> Optional["Entry"]:
        return next((entry for entry in self.entries if entry.key == key), None)


@dataclass
class Entry:
    """An entry of a map (with a key) or of a list, from the start of its key, dash or value to the end of its value."""

    start: int
    value: Node
    key: Optional[str] = None
    key_end: int = 0
    comma: Optional[int] = None  # position of the comma behind it

    @property
    def end(self) -> int:
        return self.value.end


def scan(text: str, syntax: str) -> Node:
    """Returns the root map of a config.

    Raises:
        ConfigEditError: the text is no such config, or has a construct that cannot be edited in place.
    """
    root = _scan_yaml(text) if syntax == YAML else _BracketScanner(text, syntax).scan()
    if root.kind != "map":
        raise ConfigEditError("the config is not a map of keys to values")
    return root


class _BracketScanner:
    """JSON and HOCON: the first is the stricter form of the second."""

    def __init__(self, text: str, syntax: str):
        self._text = text
        self._is_json = syntax == JSON
        self._at = 0

    def scan(self) -> Node:
        try:
            self._skip()
            root = self._value() if self._peek() in "{[" else self._map_body(self._at, closing="")
            self._skip()
        except RecursionError:
            raise ConfigEditError("the config is nested too deeply") from None
        if self._at < len(self._text):
            raise self._error("text behind the end of the config")
        return root

    def _error(self, what: str) -> ConfigEditError:
        return ConfigEditError(f"line {self._text.count(chr(10), 0, self._at) + 1}: {what}")

    def _peek(self, length: int = 1) -> str:
        return self._text[self._at : self._at + length]

    def _skip(self) -> bool:
        """Skips white space and comments; tells whether there was a line end among them."""
        start = self._at
        while self._at < len(self._text):
            if self._peek().isspace():
                self._at += 1
            elif not self._is_json and (self._peek() == "#" or self._peek(2) == "//"):
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                break
        return "\n" in self._text[start : self._at]

    def _value(self) -> Node:
        self._skip()
        start = self._at
        if self._peek() == "{":
            self._at += 1
            return self._map_body(start, closing="}")
        if self._peek() == "[":
            self._at += 1
            return self._list_body(start)
        return self._scalar()

    def _scalar(self) -> Node:
        start = self._at
        match = _TRIPLE_QUOTED.match(self._text, start) or _QUOTED.match(self._text, start)
        if match:
            self._at = match.end()
            rest = _UNQUOTED.match(self._text, self._at)
            if self._peek() == '"' or (rest and rest.group().strip()):
                raise self._error("a value that is put together from several parts: write it as one string")
        else:
            match = _UNQUOTED.match(self._text, start)
            if not match or not match.group().strip():
                raise self._error("a value is missing")
            self._at = start + len(match.group().rstrip())
            if "$" in match.group() and self._text.startswith("{", match.end()):
                end = self._text.find("}", self._at)
                what = self._text[start : end + 1]
                raise self._error(f"the substitution {what}: write its value in its place, or use nvflare's {{var}}")
        return Node("scalar", start, self._at)

    def _map_body(self, start: int, closing: str) -> Node:
        node = Node("map", start, self._at, inner_start=self._at if closing else 0)
        self._skip()
        while not self._closes(closing):
            entry = self._map_entry()
            if node.find(entry.key):
                raise self._error(f"the key {entry.key} is there twice: keep one")
            node.entries.append(entry)
            self._separator(entry, closing)
        return self._close(node, closing)

    def _map_entry(self) -> Entry:
        start = self._at
        quoted = _QUOTED.match(self._text, start)
        match = quoted or _HOCON_KEY.match(self._text, start)
        if not match or (self._is_json and not quoted):
            raise self._error("a key is missing")
        key = match.group()[1:-1] if quoted else match.group()
        self._at = key_end = match.end()
        self._skip()
        if self._peek(2) == "+=":
            raise self._error(f"{key} += ...: write the whole value")
        if not quoted and key == "include" and self._peek() not in ("=", ":", "{"):
            raise self._error("include: put the included text in its place")
        if self._peek() in ("=", ":"):
            self._at += 1
        elif self._peek() != "{" or self._is_json:
            raise self._error(f"the key {key} has no value")
        return Entry(start, self._value(), key, key_end)

    def _list_body(self, start: int) -> Node:
        node = Node("list", start, self._at, inner_start=self._at)
        self._skip()
        while not self._closes("]"):
            value = self._value()
            node.entries.append(Entry(value.start, value))
            self._separator(node.entries[-1], "]")
        return self._close(node, "]")

    def _closes(self, closing: str) -> bool:
        if self._at < len(self._text):
            return bool(closing) and self._peek() == closing
        if closing:
            raise self._error(f"{closing} is missing")
        return True

    def _close(self, node: Node, closing: str) -> Node:
        node.inner_end = self._at
        self._at += len(closing)
        node.end = self._at
        return node

    def _separator(self, entry: Entry, closing: str) -> None:
        is_separated = self._skip() and not self._is_json
        if self._peek() == ",":
            entry.comma = self._at
            self._at += 1
            self._skip()
            if self._is_json and self._closes(closing):
                raise self._error("a comma behind the last entry")
        elif not is_separated and not self._closes(closing):
            raise self._error("two values without a comma or a line end between them")


def _scan_yaml(text: str) -> Node:
    try:
        tokens = list(yaml.scan(text))
        root = yaml.compose(text)
    except (yaml.YAMLError, RecursionError) as e:
        raise ConfigEditError(" ".join(str(e).split()) or "the config is nested too deeply") from e
    for token in tokens:
        if isinstance(token, (yaml.AnchorToken, yaml.AliasToken)):
            raise ConfigEditError(f"line {token.start_mark.line + 1}: an anchor or alias: write the value in its place")
        moving = _MOVING_REFERENCE.search(token.value) if isinstance(token, yaml.ScalarToken) else None
        if moving:
            what = f"{moving.group()} refers to a place that may move: write the value in its place"
            raise ConfigEditError(f"line {token.start_mark.line + 1}: {what}")
        if isinstance(token, yaml.TagToken):
            raise ConfigEditError(f"line {token.start_mark.line + 1}: a tag: write the plain value")
    if root is None:
        raise ConfigEditError("the config is empty")
    dashes = [token.start_mark.index for token in tokens if isinstance(token, yaml.BlockEntryToken)]
    return _yaml_node(text, root, dashes)


def _yaml_node(text: str, node: yaml.Node, dashes: List[int]) -> Node:
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.ScalarNode):
        return Node("scalar", start, max(start, len(text[:end].rstrip()) if end > start else end))
    is_map, is_block = isinstance(node, yaml.MappingNode), not node.flow_style
    result = Node("map" if is_map else "list", start, end, is_block=is_block)
    for item in node.value:
        value = _yaml_node(text, item[1] if is_map else item, dashes)
        entry = Entry(value.start, value)
        if is_map:
            key = item[0]
            if not isinstance(key, yaml.ScalarNode) or result.find(key.value):
                raise ConfigEditError(f"line {key.start_mark.line + 1}: a key that is no plain word, or is there twice")
            entry = Entry(key.start_mark.index, value, key.value, key.end_mark.index)
        elif is_block:
            entry.start = max(dash for dash in dashes if dash <= value.start)
        if result.entries and not is_block:
            result.entries[-1].comma = text.rindex(",", result.entries[-1].end, entry.start)
        result.entries.append(entry)
    if is_block:  # the parser's end is the start of whatever follows
        result.end = result.entries[-1].end
    result.inner_start, result.inner_end = (start, result.end) if is_block else (start + 1, end - 1)
    return result
