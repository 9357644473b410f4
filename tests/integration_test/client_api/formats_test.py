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

"""Parameters in the formats of a job with a trainer in another process."""

import pytest

from tests.integration_test.client_api.attach_harness import attached
from tests.integration_test.client_api.external_jobs import external
from tests.unit_test.app_common.executors.client_api.formats_contract import FormatsContract


@pytest.fixture(scope="module")
def site_cell(job_cell):
    return job_cell


class TestFormats(FormatsContract):
    @pytest.fixture(params=["external_process", "attach"])
    def start(self, request, job, trainers):
        def start(script: str):
            name = job.script(script)
            if request.param == "external_process":
                return job.start(external(f"custom/{name}"))
            job.start(attached())
            trainers(job.custom_dir / name)
            return job

        return start
