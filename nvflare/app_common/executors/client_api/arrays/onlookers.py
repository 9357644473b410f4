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

"""Who else in a job may see the arrays of its tasks or results: as long as nobody does they need not be there."""

import builtins
import inspect
import re
from typing import List, Tuple

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.private.privacy_manager import Scope

# What else may see the arrays of tasks, or of results: a chain of filters, and a component that names a property.
TASKS = (Scope.TASK_DATA_FILTERS_NAME, FilterKey.IN, r"TASK_DATA|__task_data__")
RESULTS = (Scope.TASK_RESULT_FILTERS_NAME, FilterKey.OUT, r"TASK_RESULT|__task_result__")


def nothing_else_sees(what: Tuple[str, str, str], fl_ctx: FLContext, executor: Executor) -> bool:
    """Whether no filter of it, no other kind of executor and no component that looks at it is in the job."""
    chain, direction, prop = what
    runner, scope = fl_ctx.get_prop(FLContextKey.RUNNER), fl_ctx.get_prop(FLContextKey.SCOPE_OBJECT)
    if {type(other) for other in executors_of(fl_ctx)} != {type(executor)}:
        return False
    suffix = FilterKey.DELIMITER + direction
    if any(key.endswith(suffix) and filters for key, filters in getattr(runner, chain).items()):
        return False
    if scope and getattr(scope, chain)[direction]:
        return False
    components = fl_ctx.get_engine().get_all_components()
    return not any(_names(type(component), prop) for component in components.values())


def executors_of(fl_ctx: FLContext) -> List[Executor]:
    """Returns the executors of the job, one for each of its tasks; the runner of a unit test knows of none."""
    table = getattr(getattr(fl_ctx.get_prop(FLContextKey.RUNNER), "task_router", None), "task_table", None)
    return list(table.values()) if isinstance(table, dict) else []


def _names(kind: type, prop: str) -> bool:
    """Whether the source of a component's class, and what is beside it, names a property of the context."""
    for module in {inspect.getmodule(base) for base in kind.__mro__} - {builtins}:
        try:
            if re.search(rf"\b({prop})\b", inspect.getsource(module)):
                return True
        except (OSError, TypeError):
            return True  # nobody can tell
    return False
