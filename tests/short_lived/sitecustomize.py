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

"""What Python runs first in each process of `make test`, which has this folder on PYTHONPATH.

Most of them import nvflare, live for a second and end: a third of their CPU time is the garbage collector's, which
looks through the modules while they are imported, and again and again when the process ends.
"""

import atexit
import gc

gc.set_threshold(20_000)
atexit.register(gc.freeze)
