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

"""What averages the models at the server, and lets none pass that is not what its trainer has sent.

Each result carries the checksum of the model that its trainer received and of the one that it sent. Every result that
counts is a line in `accepted.jsonl`; one that is corrupt, doubled or of another round is a line in `violations.jsonl`,
and the end of the job.
"""

import json
import os

import numpy as np
from model_checksum import RECEIVED, SENT, checksum

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.np.constants import NPConstants

ACCEPTED_FILE = "accepted.jsonl"
VIOLATIONS_FILE = "violations.jsonl"


class CheckingAggregator(ModelAggregator):
    def __init__(self, size: int = 4, filtered_sites: list = None):
        """Initializes the component.

        Args:
            size: elements of the model; it starts with zeros.
            filtered_sites: sites whose privacy filters change what is sent, so that only what they received is checked.
        """
        super().__init__()
        self.size = size
        self.filtered_sites = filtered_sites or []
        self._global_checksum = checksum({NPConstants.NUMPY_KEY: np.zeros(size, dtype=np.float32)})
        self._sum = None
        self._sites = []
        self._round = 0
        self._run_dir = ""

    def handle_event(self, event_type: str, fl_ctx: FLContext):
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.START_RUN:
            self._run_dir = fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id())
        elif event_type == AppEventType.ROUND_STARTED:
            self._round = fl_ctx.get_prop(AppConstants.CURRENT_ROUND)

    def accept_model(self, model: FLModel):
        site = model.meta["client_name"]
        wrong = self._find_violation(site, model)
        if wrong:
            self._note(VIOLATIONS_FILE, site, wrong)
            self.system_panic(f"the result of {site} in round {self._round} is wrong: {wrong}", self.fl_ctx)
            return
        self._note(ACCEPTED_FILE, site, model.metrics)
        self._sites.append(site)
        params = model.params[NPConstants.NUMPY_KEY].astype(np.float64)
        self._sum = params if self._sum is None else self._sum + params

    def _find_violation(self, site: str, model: FLModel) -> str:
        if site in self._sites:
            return "doubled"
        if model.current_round != self._round:
            return f"of round {model.current_round}"
        if model.meta.get(RECEIVED) != self._global_checksum:
            return f"trained on another model: {model.meta.get(RECEIVED)}, not {self._global_checksum}"
        if site not in self.filtered_sites and model.meta.get(SENT) != checksum(model.params):
            return f"not what was sent: {checksum(model.params)}, not {model.meta.get(SENT)}"
        return ""

    def _note(self, file_name: str, site: str, what) -> None:
        with open(os.path.join(self._run_dir, file_name), "a") as file:
            file.write(json.dumps({"round": self._round, "site": site, "what": what}) + "\n")

    def aggregate_model(self) -> FLModel:
        params = {NPConstants.NUMPY_KEY: (self._sum / len(self._sites)).astype(np.float32)}
        self._global_checksum = checksum(params)
        return FLModel(params=params)

    def reset_stats(self):
        self._sum, self._sites = None, []
