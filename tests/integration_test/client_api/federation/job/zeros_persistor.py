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

"""Hands out the zeros that training starts with, and keeps the model of the last round."""

import os

import numpy as np

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.np.constants import NPConstants

MODEL_FILE = "model.npy"


class ZerosPersistor(ModelPersistor):
    def __init__(self, size: int = 4):
        """Initializes the component for a model of so many elements."""
        super().__init__()
        self.size = size

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        return make_model_learnable({NPConstants.NUMPY_KEY: np.zeros(self.size, dtype=np.float32)}, meta_props={})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext):
        run_dir = fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id())
        np.save(os.path.join(run_dir, MODEL_FILE), model[ModelLearnableKey.WEIGHTS][NPConstants.NUMPY_KEY])
