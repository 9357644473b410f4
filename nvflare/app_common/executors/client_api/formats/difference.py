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

"""What a script gets of a received model of which a difference is to be sent: a copy, which it may train in place."""

import copy
from typing import Optional

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.client.config import TransferType
from nvflare.client.model_registry import ModelRegistry


class ScriptCopy:
    """nvflare subtracts the parameters that it has received, and gives the script the same arrays."""

    def __init__(self, transfer_type: str):
        self._is_needed = transfer_type == TransferType.DIFF
        self._received: Optional[FLModel] = None
        self._copy: Optional[FLModel] = None

    def of(self, received: Optional[FLModel]) -> Optional[FLModel]:
        """Returns what the script gets: always the same for a model."""
        if not self._is_needed:
            return received
        if received is not self._received:
            self._received, self._copy = received, copy.copy(received)
            if received:
                self._copy.params = copy.deepcopy(received.params)
        return self._copy

    def release(self) -> None:
        """Lets go of the parameters when the result is sent, as nvflare does of what it has received."""
        if self._copy:
            self._copy.params = None
        self._received = self._copy = None


class TrainerModelRegistry(ModelRegistry):
    """nvflare's registry of the model in hand, which stays as it was received."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self._script_copy = ScriptCopy(config.get_transfer_type())

    def get_model(self, timeout: Optional[float] = None) -> Optional[FLModel]:
        return self._script_copy.of(super().get_model(timeout))

    def release_params(self, sent_model: FLModel) -> None:
        super().release_params(sent_model)
        self._script_copy.release()
