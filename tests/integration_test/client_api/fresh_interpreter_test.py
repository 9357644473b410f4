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

"""What only an interpreter shows in which nothing was loaded before."""

import subprocess
import sys
import textwrap

import pytest

from tests.unit_test.app_common.executors.markers import needs_torch


@pytest.fixture
def run_python():
    """Runs code in a fresh interpreter; it must end well."""

    def run(code: str) -> str:
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def test_no_backend_is_loaded_before_the_job_starts(run_python):
    run_python(
        """
        import sys
        from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
        ClientAPIExecutor("in_process", task_script_path="train.py")
        loaded = [name for name in sys.modules if name.endswith("_backend") and "client_api" in name]
        assert not loaded, loaded
        assert "torch" not in sys.modules
        """
    )


# The helpers of spawned and fork server's workers live as long as the process of the job.
def test_all_kinds_of_pools_of_an_in_process_script(tmp_path, run_python):
    run_python(
        f"""
        from pathlib import Path
        from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
        from tests.unit_test.app_common.executors.client_api.backend_contract import PARENT, WAYS, do_all_ways
        from tests.unit_test.app_common.executors.job_harness import JobHarness

        job = JobHarness(Path({str(tmp_path / "workspace")!r}), "job", None)
        try:
            job.start(ClientAPIExecutor("in_process", task_script_path=job.script(PARENT)))
            do_all_ways(job, WAYS)
        finally:
            job.close()
        """
    )


@needs_torch
def test_tensor_in_a_job_of_arrays_is_named(run_python):
    output = run_python(
        """
        import torch
        from nvflare.apis.fl_context import FLContext
        from nvflare.app_common.abstract.fl_model import FLModel
        from nvflare.app_common.executors.client_api.formats.result_converter import ResultConverter
        from nvflare.app_common.utils.fl_model_utils import FLModelUtils

        for params in ({"a": 1, "b": torch.ones(2)}, {"a": 1, "b": torch.nn.Parameter(torch.ones(2))}):
            try:
                result = FLModelUtils.to_shareable(FLModel(params=params))
                ResultConverter(None).process("train", result, FLContext())
            except ValueError as e:
                print(e)
        """
    )
    assert output.count("parameter 'b' is a torch tensor") == 2
    assert output.count("set params_exchange_format to pytorch") == 2


TORCH_JOB = """
    from pathlib import Path
    from tests.unit_test.app_common.executors.job_harness import JobHarness, make_task, model_of
    from nvflare.app_common.executors.client_api.params_filter import ParamsConverterFilter
    from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
    from nvflare.app_opt.pt.numpy_params_converter import NumpyToPTParamsConverter, PTToNumpyParamsConverter

    job = JobHarness(Path({root!r}), "job-1", None)
    script = job.script({script!r})
    filters = ParamsConverterFilter("from_server"), ParamsConverterFilter("to_server")
    components = {{"from_server": NumpyToPTParamsConverter(), "to_server": PTToNumpyParamsConverter()}}
    job.start(ClientAPIExecutor("in_process", task_script_path=script), *filters, components=components)
    with job.engine.new_context() as fl_ctx:
        task = filters[0].process(make_task(2.0), fl_ctx)
        result = filters[1].process(job.execute("train", task), fl_ctx)
    job.close()
    print(repr(model_of(result).params["w"]))  # not before: an in-process script's job has its own print()
"""

TORCH_SCRIPT = """
    import torch
    import nvflare.client as flare
    flare.init()
    while flare.is_running():
        params = flare.receive().params
        assert type(params["w"]) is torch.Tensor
        flare.send(flare.FLModel(params={"w": params["w"] + 1}))
"""


@needs_torch
def test_nvflares_own_converters_for_tensors_in_a_job_of_arrays(tmp_path, run_python):
    """The job's formats say nothing of tensors: the script's model and the server's are the components' affair."""
    root = str(tmp_path / "site")
    output = run_python(TORCH_JOB.format(root=root, script=TORCH_SCRIPT))
    assert "array([3., 3., 3., 3.])" in output
