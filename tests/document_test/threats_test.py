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

"""docs/design says who can do what: each row names tests that show it, and they are there."""

import re

import pytest

from tests.unit_test.app_common.executors.job_harness import PROJECT

DESIGN = (PROJECT / "docs" / "design" / "sessions.md").read_text()
SECTION = DESIGN.partition("## Who can do what\n")[2].partition("\n## ")[0]
ROWS = [line.strip("| ").split(" | ") for line in SECTION.splitlines() if line.startswith("| ")][2:]


def test_there_are_rows():
    assert len(ROWS) >= 10


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_row_names_tests_that_are_there(row):
    who, can, cannot, shown_by = row
    names = [re.fullmatch(r"`(\w+)::(test_\w+)`", name) for name in shown_by.split(", ")]
    assert who and can and cannot and names and all(names)
    for module, test in (name.groups() for name in names):
        (path,) = (PROJECT / "tests").rglob(f"{module}.py")
        assert re.search(rf"^ *def {test}\(", path.read_text(), re.MULTILINE), f"{module} has no {test}"
