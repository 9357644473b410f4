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

"""The model that a difference is taken from: the one that was received, whatever the script did to its arrays since."""

import copy
from contextlib import contextmanager
from typing import Iterator, Optional

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.client.config import TransferType
from nvflare.client.model_registry import ModelRegistry


class DifferenceBase:
    """nvflare subtracts the parameters that it gave the script, which for one that trains in place are the new ones."""

    def __init__(self, transfer_type: str):
        self._is_needed = transfer_type == TransferType.DIFF
        self._received: Optional[FLModel] = None
        self._params = None

    def note(self, received: Optional[FLModel]) -> None:
        """Keeps a copy of what was received, if differences are to be sent."""
        if self._is_needed and received is not self._received:
            self._received, self._params = received, copy.deepcopy(received and received.params)

    @contextmanager
    def back_in_place(self, sent: FLModel) -> Iterator[FLModel]:
        """Has the received model be as it was while nvflare subtracts it; gives what to send for a model."""
        received, params = self._received, self._params
        if params is None:
            yield sent
            return
        given, received.params = received.params, params
        try:
            yield sent if sent is not received else _with_params(sent, given)
        finally:
            if received.params is params:  # else it was let go
                received.params = given


def _with_params(model: FLModel, params: dict) -> FLModel:
    model = copy.copy(model)
    model.params = params
    return model


class TrainerModelRegistry(ModelRegistry):
    """nvflare's registry of the model in hand, with differences from what was received."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self._base = DifferenceBase(config.get_transfer_type())

    def get_model(self, timeout: Optional[float] = None) -> Optional[FLModel]:
        model = super().get_model(timeout)
        self._base.note(model)
        return model

    def submit_model(self, model: FLModel) -> None:
        with self._base.back_in_place(model) as model:
            super().submit_model(model)

    def clear(self) -> None:
        super().clear()
        self._base.note(None)
