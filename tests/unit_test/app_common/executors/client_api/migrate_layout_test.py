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
"""The migration tool: it changes the text of a config where something changes, and nowhere else."""

import shutil

import pytest

from nvflare.app_common.executors.client_api.migrate import OK, main
from nvflare.app_common.executors.client_api.migration.config_edit import ConfigDocument
from nvflare.app_common.executors.client_api.migration.config_scan import HOCON, JSON, YAML, ConfigEditError
from tests.unit_test.app_common.executors.client_api.migration_parts import JOBS, config_file


class TestComments:
    @pytest.mark.parametrize(
        "name, kept, gone",
        [
            (
                "in_process",
                ["# the script, and what it is given", "# where the script is", "# from above", "# metrics go to"],
                ["# look for a result so often"],
            ),
            (
                "launcher_file_pipe",
                ["# metrics come with the model", "// keeps the best model"],
                ["# which launcher", "# which pipe", "# starts the script", "# for each task", "# two processes"],
            ),
            ("launcher_all_knobs", ["# every argument", "# for the result"], ["# starts the script"]),
            ("launcher_tf_converters", [], ["# flat arrays to layers", "# and back"]),
            ("swarm", ["# the swarm's own"], []),
        ],
    )
    def test_stay_where_their_subject_stays(self, name, kept, gone, tmp_path):
        job = shutil.copytree(JOBS / name, tmp_path / name)
        before = config_file(job).read_text()
        main([str(job), "--in-place"])
        after = config_file(job).read_text()
        for comment in kept:
            assert comment in before and comment in after
        for comment in gone:
            assert comment in before and comment not in after

    def test_untouched_lines_keep_their_bytes_and_line_ends(self, tmp_path):
        job = shutil.copytree(JOBS / "launcher_file_pipe", tmp_path / "job")
        config_file(job).write_bytes(config_file(job).read_bytes().replace(b"\n", b"\r\n"))
        before = config_file(job).read_bytes().splitlines(keepends=True)
        main([str(job), "--in-place"])
        after = config_file(job).read_bytes()
        assert b"\n" not in after.replace(b"\r\n", b"")
        added = [line for line in after.splitlines(keepends=True) if line not in before]
        assert len(added) == 6

    @pytest.mark.parametrize("name", ["launcher_file_pipe", "launcher_metrics", "launcher_all_knobs"])
    @pytest.mark.parametrize("odd", [0, 1])
    def test_line_ends_of_two_kinds_stay(self, name, odd, tmp_path):
        added = []
        for job in (shutil.copytree(JOBS / name, tmp_path / folder) for folder in ("plain", "mixed")):
            before = config_file(job).read_bytes().splitlines(keepends=True)
            if job.name == "mixed":
                before[odd::2] = [line.replace(b"\n", b"\r\n") for line in before[odd::2]]
            config_file(job).write_bytes(b"".join(before))
            assert main([str(job), "--in-place"]) == OK
            after = config_file(job).read_bytes().splitlines(keepends=True)
            added.append([line.replace(b"\r\n", b"\n") for line in after if line not in before])
        assert added[0] == added[1]

    def test_byte_order_mark_of_a_yaml_stays(self, tmp_path):
        """nvflare reads such a file, and none of another kind."""
        job = shutil.copytree(JOBS / "launcher_all_knobs", tmp_path / "job")
        plain = shutil.copytree(job, tmp_path / "plain")
        config_file(job).write_bytes(b"\xef\xbb\xbf" + config_file(job).read_bytes())
        assert main([str(job), "--in-place"]) == main([str(plain), "--in-place"]) == OK
        assert config_file(job).read_bytes() == b"\xef\xbb\xbf" + config_file(plain).read_bytes()


# syntax, text, edit -> text
EDITS = {
    "last of a line": (JSON, '{"a": [1, 2, 3]}', ("delete", ("a",), [1, 2]), '{"a": [1]}'),
    "first of a line": (JSON, '{"a": [1, 2, 3]}', ("delete", ("a",), [0, 1]), '{"a": [3]}'),
    "all of a line": (JSON, '{"a": [1, 2]}', ("delete", ("a",), [0, 1]), '{"a": []}'),
    "all lines": (JSON, '{\n  "a": [\n    1,\n    2\n  ]\n}', ("delete", ("a",), [0, 1]), '{\n  "a": []\n}'),
    "all lines but a comment": (HOCON, "a = [\n  1 # x\n\n  # y\n]", ("delete", ("a",), [0]), "a = [\n  # y\n]"),
    "last line": (JSON, '{\n  "a": 1,\n  "b": 2\n}', ("delete", (), ["b"]), '{\n  "a": 1\n}'),
    "comment above and beside": (
        HOCON,
        "a = 1\n# of b\n// too\nb = 2  # beside\n\n# of c\nc = 3\n",
        ("delete", (), ["b"]),
        "a = 1\n\n# of c\nc = 3\n",
    ),
    "what is switched off above": (
        HOCON,
        "x {\n  // of another kind:\n  // b = 3\n  b = 2  # beside\n  c = 3\n}",
        ("delete", ("x",), ["b"]),
        "x {\n  // of another kind:\n  // b = 3\n  c = 3\n}",
    ),
    "what is switched off in a whole block of YAML": (
        YAML,
        "a:\n  # - b: 0\n  - b: 1\n  # the other\n  - c: 2\nd: 3\n",
        ("delete", ("a",), [0, 1]),
        "a: []\n  # - b: 0\nd: 3\n",
    ),
    "comment of the section": (HOCON, "# of all\n\n# of a\na = 1\nb = 2", ("delete", (), ["a"]), "# of all\n\nb = 2"),
    "line that looks like a comment": (
        HOCON,
        'a = """x\n# no comment"""\nb = 2\n',
        ("delete", (), ["b"]),
        'a = """x\n# no comment"""\n',
    ),
    "behind a comma": (HOCON, "{a = 1, b = 2}", ("insert", (), "c", "x", "b"), '{a = 1, b = 2, c = "x"}'),
    "behind a line": (HOCON, "a = 1 # one\nb = 2", ("insert", (), "c", None, "a"), "a = 1 # one\nc = null\nb = 2"),
    "first, above its comment": (
        HOCON,
        "x {\n  # of a\n  a = 1\n}",
        ("insert", ("x",), "b", 2),
        "x {\n  b = 2\n  # of a\n  a = 1\n}",
    ),
    "into an empty map": (
        HOCON,
        "x {}",
        ("insert", ("x",), "b", [1, {"c": 2}]),
        "x {\n  b = [\n    1\n    {\n      c = 2\n    }\n  ]\n}",
    ),
    "block of YAML": (YAML, "a:\n- b: 1\n- c: 2\nd: 3\n", ("delete", ("a",), [0]), "a:\n- c: 2\nd: 3\n"),
    "whole block of YAML": (YAML, "a:\n- b: 1\n- c: 2\nd: 3\n", ("delete", ("a",), [0, 1]), "a: []\nd: 3\n"),
    "whole block of YAML with comments beside": (
        YAML,
        "a:  # all\n  # one\n  - b: 1\n  - c: 2 # two\n  # of d\nd: 3\n",
        ("delete", ("a",), [0, 1]),
        "a: []  # all\n  # of d\nd: 3\n",
    ),
    "item of a YAML block": (
        YAML,
        "a:\n  - b: 1  # one\nd: 3\n",
        ("insert", ("a",), None, {"c": [2], "e": {}}, 0),
        "a:\n  - b: 1  # one\n  - c:\n    - 2\n    e: {}\nd: 3\n",
    ),
    "behind a YAML text": (
        YAML,
        "a:\n  b: >-\n    x\n    y\n  # of c\n  c: 1\n",
        ("insert", ("a",), "d", "z", "b"),
        'a:\n  b: >-\n    x\n    y\n  d: "z"\n  # of c\n  c: 1\n',
    ),
    "flow of YAML": (YAML, "a: {b: 1, c: 2}\n", ("delete", ("a",), ["c"]), "a: {b: 1}\n"),
    "quoted key": (JSON, '{"a": 1}', ("rename", ("a",), "b"), '{"b": 1}'),
    "plain key": (HOCON, "a { b = 1 }", ("rename", ("a",), "b"), "b { b = 1 }"),
    "words of any language": (HOCON, "a = x", ("set", ("a",), 'ä "\\'), 'a = "ä \\"\\\\"'),
}


class TestEdits:
    @pytest.mark.parametrize("name", EDITS)
    def test_text_is_changed_in_place(self, name):
        syntax, text, (action, *arguments), expected = EDITS[name]
        document = ConfigDocument(text, syntax)
        getattr(document, action)(*arguments)
        assert document.verified_text() == expected

    def test_dotted_keys_are_left_alone(self):
        document = ConfigDocument("a.b = 1\nc = 2\n", HOCON)
        document.set(("c",), 3)
        assert document.verified_text() == "a.b = 1\nc = 3\n"
        with pytest.raises(ConfigEditError, match="write it with braces"):
            document.set(("a", "b"), 2)

    def test_values_of_yaml_are_what_omegaconf_makes_of_them(self):
        text = "a: 1e3\nb: 2020-01-01\nc: -1_0.5e+2\nd: 1:30\ne: .5\nf: 2020-01-01 10:00:00\ng: 1e\n"
        expected = {
            "a": 1000.0,
            "b": "2020-01-01",
            "c": -1050.0,
            "d": 90,
            "e": 0.5,
            "f": "2020-01-01 10:00:00",
            "g": "1e",
        }
        assert ConfigDocument(text, YAML).data == expected

    def test_text_that_means_something_else_is_found(self):
        """nvflare's parser for .conf makes durations of such words."""
        document = ConfigDocument("a = x\nb = 2 seconds\n", HOCON)
        document.data["b"] = "2 seconds"
        with pytest.raises(ConfigEditError, match="too unusual"):
            document.verified_text()
