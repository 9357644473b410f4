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
"""The migration tool with --target 2.9: what nvflare 2.9 cannot load is not there afterwards, or the job is refused."""

import json
import shutil

import pytest

from nvflare.app_common.executors.client_api.migrate import NOT_MIGRATED, OK, main
from tests.unit_test.app_common.executors.client_api.migration_parts import (
    CELL_PIPE,
    IN_PROCESS,
    JOBS,
    RELAY,
    launcher_executor,
    launcher_parts,
    load,
    make_job,
)

EXCHANGER = "nvflare.app_common.executors.task_exchanger.TaskExchanger"
CONVERTER = "nvflare.app_opt.pt.numpy_params_converter.NumpyToPTParamsConverter"
SENDER = "nvflare.app_common.metrics_exchange.metrics_sender.MetricsSender"
HUB = "nvflare.app_common.hub.hub_controller.HubController"
OWN_CONVERTER = """
from nvflare.app_common.abstract.params_converter import ParamsConverter


class Own(ParamsConverter):
    pass
"""


def in_process_job(root, *components, **keys):
    return make_job(root, {"path": IN_PROCESS, "args": {"task_script_path": "t.py"}}, components, **keys)


def part(id_: str, path: str, **arguments) -> dict:
    return {"id": id_, "path": path, "args": arguments}


class TestGone:
    def test_what_nothing_uses_goes(self, tmp_path):
        parts = [part("pipe", CELL_PIPE), part("c", CONVERTER), part("relay", RELAY, pipe_id="pipe"), part("k", "a.K")]
        job = in_process_job(tmp_path, *parts)
        assert main([str(job), "--in-place", "--target", "2.9"]) == OK
        config = load(job / "app" / "config" / "config_fed_client.json")
        assert [component["id"] for component in config["components"]] == ["k"]

    def test_it_stays_for_nvflare_2_8(self, tmp_path):
        job = in_process_job(tmp_path, part("pipe", CELL_PIPE), part("c", CONVERTER))
        assert main([str(job), "--in-place"]) == OK
        assert len(load(job / "app" / "config" / "config_fed_client.json")["components"]) == 2

    @pytest.mark.parametrize(
        "components, keys, where",
        [
            ([part("pipe", CELL_PIPE), part("own", "a.B", pipe_id="pipe")], {}, "component pipe"),
            ([part("own", "a.B", helper={"path": CONVERTER})], {}, "component own"),
            ([part("sender", SENDER, pipe_id="p")], {}, "component sender"),
            ([{"id": "hub", "name": "HubExecutor", "args": {}}], {}, "component hub"),
            ([part("own", "code.Own")], {}, "custom/code.py"),
            (
                [],
                {"task_data_filters": [{"tasks": ["train"], "filters": [{"path": CONVERTER, "args": {}}]}]},
                "task_data_filters",
            ),
        ],
    )
    def test_what_something_uses_is_refused(self, components, keys, where, tmp_path, capsys):
        job = in_process_job(tmp_path, *components, **keys)
        (job / "app" / "custom").mkdir()
        (job / "app" / "custom" / "code.py").write_text(OWN_CONVERTER)
        assert main([str(job), "--target", "2.9"]) == NOT_MIGRATED
        assert any(where in line and "refused" in line for line in capsys.readouterr().out.splitlines())

    @pytest.mark.parametrize("path", [EXCHANGER, "TaskExchanger", "nvflare.app_common.hub.hub_executor.HubExecutor"])
    def test_a_job_without_a_client_api_executor_is_refused_too(self, path, tmp_path, capsys):
        key = "path" if "." in path else "name"
        job = make_job(tmp_path, {key: path, "args": {"pipe_id": "pipe"}}, [part("pipe", CELL_PIPE)])
        assert main([str(job)]) == OK
        assert main([str(job), "--target", "2.9"]) == NOT_MIGRATED
        assert "nvflare 2.9 has no " in capsys.readouterr().out

    def test_the_server_is_looked_at(self, tmp_path, capsys):
        job = in_process_job(tmp_path)
        server = job / "app" / "config" / "config_fed_server.json"
        server.write_text(json.dumps({"workflows": [{"id": "hub", "path": HUB, "args": {}}]}))
        assert main([str(job)]) == OK
        assert main([str(job), "--in-place", "--target", "2.9"]) == NOT_MIGRATED
        captured = capsys.readouterr()
        assert "app/config/config_fed_server.json:" in captured.out and "no hub of federations" in captured.out
        assert IN_PROCESS in (job / "app" / "config" / "config_fed_client.json").read_text()

    def test_code_that_may_be_used_is_noted(self, tmp_path, capsys):
        job = make_job(tmp_path, launcher_executor(), launcher_parts())
        (job / "app" / "custom" / "deep").mkdir(parents=True)
        (job / "app" / "custom" / "deep" / "code.py").write_text(OWN_CONVERTER)
        (job / "app" / "custom" / "broken.py").write_text("class {")
        assert main([str(job), "--target", "2.9"]) == OK
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "custom/deep/code.py" in line]
        assert "note" in line and "nvflare.app_common.abstract.params_converter.ParamsConverter" in line

    def test_a_job_that_was_migrated_for_2_8_is_refused(self, tmp_path, capsys):
        job = shutil.copytree(JOBS / "in_process_converters", tmp_path / "job")
        assert main([str(job), "--in-place"]) == OK
        assert main([str(job), "--target", "2.9"]) == NOT_MIGRATED
        assert "nvflare 2.9 has no ParamsConverterFilter" in capsys.readouterr().out
