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

"""What every test of a federation has: a watchdog, and a plain federation for those that need no special one.

The proof that nothing is left is the federation's own, when it ends: see Federation.__exit__. (The FLARE API keeps a
pool of threads for downloads in the test process, for good.)
"""

import pytest

from tests.integration_test.client_api.federation.federation import Federation


@pytest.fixture(autouse=True)
def nothing_left(watchdog):
    """The federation's own proof takes the place of this one."""


@pytest.fixture(scope="package")  # its end takes a while, in which other tests may run
def federation(tmp_path_factory):
    """Two sites, for tests that do not ask for a special one; who breaks something repairs it."""
    with Federation(tmp_path_factory.mktemp("federation"), sites=2) as federation:
        yield federation
