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

"""The difference from a received model, which nvflare forms: the script may train in place what it gets, a copy; and it
is told of what the difference would lack."""

import copy
import reprlib
from typing import Optional

import numpy as np

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.client.config import TransferType
from nvflare.client.model_registry import ModelRegistry
from nvflare.fuel.utils.log_utils import get_obj_logger


class ScriptCopy:
    """nvflare subtracts the parameters that it has received, and gives the script the same arrays."""

    def __init__(self, transfer_type: str):
        self._is_needed = transfer_type == TransferType.DIFF
        self._received: Optional[FLModel] = None
        self._copy: Optional[FLModel] = None
        self._has_told = False

    def of(self, received: Optional[FLModel]) -> Optional[FLModel]:
        """Returns what the script gets: always the same for a model."""
        if not self._is_needed:
            return received
        if received is not self._received:
            self._received, self._copy = received, copy.copy(received)
            if received:
                self._copy.params = copy.deepcopy(received.params)
        return self._copy

    def check(self, sent: FLModel) -> None:
        """Looks at a model of which the difference is to be sent, before nvflare forms it.

        Raises:
            ValueError: there is no difference from a received parameter; names it.
        """
        received = self._received.params if self._received else None
        if sent.params_type != ParamsType.FULL or not (isinstance(received, dict) and isinstance(sent.params, dict)):
            return
        for name in filter(received.__contains__, sent.params):
            _check_shapes(name, getattr(received[name], "shape", ()), getattr(sent.params[name], "shape", ()))
        new = [name for name in sent.params if name not in received]
        if new and not self._has_told:
            self._has_told = True
            get_obj_logger(self).warning(
                f"not sent: {reprlib.repr(new)}, as there is no difference from what the received model lacks; "
                'params_transfer_type = "FULL" in the job\'s client config has all sent'
            )

    def release(self) -> None:
        """Lets go of the parameters when the result is sent, as nvflare does of what it has received."""
        if self._copy:
            self._copy.params = None
        self._received = self._copy = None


def _check_shapes(name: str, received: tuple, sent: tuple) -> None:
    try:  # mostly they are equal, and a model may have thousands
        is_same = sent == received or np.broadcast_shapes(received, sent) == received
    except ValueError:
        is_same = False
    if not is_same:
        raise ValueError(
            f"parameter {name!r} has the shape {tuple(sent)}, and was received with {tuple(received)}: there is no "
            "difference to send (params_transfer_type DIFF)"
        )


class TrainerModelRegistry(ModelRegistry):
    """nvflare's registry of the model in hand, which stays as it was received."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self._script_copy = ScriptCopy(config.get_transfer_type())

    def get_model(self, timeout: Optional[float] = None) -> Optional[FLModel]:
        return self._script_copy.of(super().get_model(timeout))

    def submit_model(self, model: FLModel) -> None:
        self._script_copy.check(model)
        super().submit_model(model)

    def release_params(self, sent_model: FLModel) -> None:
        super().release_params(sent_model)
        self._script_copy.release()
