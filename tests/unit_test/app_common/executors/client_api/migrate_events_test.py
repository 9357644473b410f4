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
"""The migration tool: who hears what a script logs, before and afterwards."""

import json

import pytest

from nvflare.app_common.executors.client_api.migrate import NOT_MIGRATED, OK, main
from tests.unit_test.app_common.executors.client_api.migration_parts import (
    IN_PROCESS,
    RELAY,
    launcher_executor,
    launcher_parts,
    load,
    make_job,
    new_executors,
)

LOCAL, FED = "analytix_log_stats", "fed.analytix_log_stats"
RECEIVER = "nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver"
MLFLOW = "nvflare.app_opt.tracking.mlflow.mlflow_receiver.MLflowReceiver"


def receiver(*events: str, path: str = RECEIVER) -> dict:
    return {"id": "tracking", "path": path, "args": {"events": list(events)} if events else {}}


def relay(**arguments) -> dict:
    return {"id": "relay", "path": RELAY, "args": {"pipe_id": "pipe", **arguments}}


def converter(*events: str, prefix: str = "fed.") -> dict:
    path = "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent"
    return {"id": "to_fed", "path": path, "args": {"events_to_convert": list(events), "fed_event_prefix": prefix}}


def disabled(component: dict) -> dict:
    return {**component, "disabled": True}


@pytest.fixture
def migrate(tmp_path, capsys):
    """Migrates a job with these components at the site and at the server; returns exit code and report."""

    def migrate(site: list, server: list = (), is_launched: bool = True, target: str = "2.8") -> tuple:
        in_process = {"path": IN_PROCESS, "args": {"task_script_path": "t.py"}}
        parts = [*launcher_parts(), *site] if is_launched else site
        job = make_job(tmp_path, launcher_executor() if is_launched else in_process, parts)
        config = {"format_version": 2, "workflows": [], "components": list(server)}
        (job / "app" / "config" / "config_fed_server.json").write_text(json.dumps(config))
        code = main([str(job), "--in-place", "--target", target])
        migrated = load(job / "app" / "config" / "config_fed_client.json")
        assert bool(new_executors(migrated)) == (code == OK)
        return code, capsys.readouterr().out

    return migrate


class TestInProcess:
    """The executor fires the local event, as the legacy ones did, and a ConvertToFedEvent forwards it."""

    @pytest.mark.parametrize("target", ["2.8", "2.9"])
    @pytest.mark.parametrize("site", [[], [receiver(LOCAL)], [receiver()], [converter(LOCAL)]])
    def test_nothing_is_different(self, site, target, migrate):
        code, report = migrate(site, [receiver(FED)], is_launched=False, target=target)
        assert code == OK and "note" not in report and FED not in report


class TestLaunched:
    """The executor fires the local event for the site, and the federated one unless a ConvertToFedEvent does."""

    @pytest.mark.parametrize("events", [[], [FED], [LOCAL, FED]])
    def test_the_usual_relay_is_replaced_in_silence(self, events, migrate):
        code, report = migrate([relay(event_type=FED)], [receiver(*events)])
        assert code == OK and "note" not in report

    @pytest.mark.parametrize("server", [[], [receiver()], [receiver(FED)], [receiver(path=MLFLOW)]])
    def test_another_name_at_the_server_is_noted(self, server, migrate):
        code, report = migrate([relay()], server)
        assert code == OK and f"the server gets {FED} now, not {LOCAL}" in report

    def test_a_receiver_that_would_get_nothing_more_is_refused(self, migrate):
        code, report = migrate([relay()], [receiver(LOCAL)])
        assert code == NOT_MIGRATED
        assert f"the server gets {FED} now: in app/config/config_fed_server.json, add that to its events" in report

    def test_a_converter_with_another_prefix_decides_the_name(self, migrate):
        code, report = migrate([relay(event_type=FED), converter(LOCAL, prefix="site.")], [receiver(FED)])
        assert code == NOT_MIGRATED and "the server gets site.analytix_log_stats now" in report

    def test_local_records_with_a_converter_stay_as_they_are(self, migrate):
        code, report = migrate([relay(fed_event=False), converter(LOCAL), receiver(LOCAL)], [receiver(FED)])
        assert code == OK and "note" not in report

    def test_local_records_must_not_leave_the_site(self, migrate):
        code, report = migrate([relay(fed_event=False), receiver(LOCAL)])
        assert code == NOT_MIGRATED and "would leave the site now" in report

    def test_what_is_disabled_neither_converts_nor_listens(self, migrate):
        code, report = migrate([relay(fed_event=False), disabled(converter(LOCAL)), receiver(LOCAL)])
        assert code == NOT_MIGRATED and "would leave the site now" in report

    def test_a_disabled_receiver_has_nothing_to_lose(self, migrate):
        assert migrate([relay()], [disabled(receiver(LOCAL))])[0] == OK

    def test_an_event_of_its_own_is_refused_with_the_names_that_there_are(self, migrate):
        code, report = migrate([relay(event_type="mine")], [receiver("mine")])
        assert code == NOT_MIGRATED
        assert f"the executor sends {FED} (and {LOCAL} at the site)" in report
        assert "in app/config/config_fed_server.json, add that to its events" in report

    def test_nvflare_2_9_has_no_local_event(self, migrate):
        code, report = migrate([relay(fed_event=False), converter(LOCAL), receiver(LOCAL)], target="2.9")
        assert code == NOT_MIGRATED and "no event that a receiver takes" in report

    def test_a_server_config_that_cannot_be_read_is_named(self, tmp_path, capsys):
        job = make_job(tmp_path, launcher_executor(), launcher_parts())
        (job / "app" / "config" / "config_fed_server.conf").write_text("a {\n")
        assert main([str(job)]) == OK
        assert "not looked at: " in capsys.readouterr().out
