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
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, List, Optional, Set, Tuple

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FilterKey, FLContextKey, WorkspaceConstants
from nvflare.apis.fl_context import FLContext
from nvflare.private.privacy_manager import Scope

# What else may see the arrays of tasks, or of results: a chain of filters, and a component that names a property.
TASKS = (Scope.TASK_DATA_FILTERS_NAME, FilterKey.IN, r"TASK_DATA|__task_data__")
RESULTS = (Scope.TASK_RESULT_FILTERS_NAME, FilterKey.OUT, r"TASK_RESULT|__task_result__")


def looks_at_no_arrays(execute: Callable) -> Callable:
    """Marks the `execute` of an executor that hands the arrays of its tasks on; what overrides it has no mark."""
    execute.looks_at_no_arrays = True
    return execute


def nothing_else_sees(what: Tuple[str, str, str], fl_ctx: FLContext) -> bool:
    """Whether no filter of it, no other kind of executor and no component that looks at it is in the job."""
    chain, direction, prop = what
    runner, scope = fl_ctx.get_prop(FLContextKey.RUNNER), fl_ctx.get_prop(FLContextKey.SCOPE_OBJECT)
    executors = executors_of(fl_ctx)
    if not executors or not all(_hands_on(executor) for executor in executors):
        return False
    suffix = FilterKey.DELIMITER + direction
    if any(key.endswith(suffix) and filters for key, filters in getattr(runner, chain).items()):
        return False
    if scope and getattr(scope, chain)[direction]:
        return False
    return not _names({type(member) for member in members_of(fl_ctx.get_engine())}, prop)


def members_of(engine: Any) -> List[Any]:
    """Returns what a job consists of at its site: components, those inside of them, executors and filters.

    An engine knows its components by their names, and all the others as those that hear its events, as nvflare's own
    runner does. The engine of a unit test knows of none.
    """
    try:
        components = engine.get_all_components()
    except Exception:  # at the border to nvflare: whatever the engine of a unit test is
        components = None
    named = components.values() if isinstance(components, dict) else ()
    hearing = getattr(engine, "handlers", None)
    members = [*named, *(hearing if isinstance(hearing, list) else ())]
    # A component that the job's config disables is None.
    return [m for m in members if m is not None and not type(m).__module__.startswith("nvflare.private.")]


def executors_of(fl_ctx: FLContext) -> List[Executor]:
    """Returns the executors of the job, one for each of its tasks; the runner of a unit test knows of none."""
    table = getattr(getattr(fl_ctx.get_prop(FLContextKey.RUNNER), "task_router", None), "task_table", None)
    return list(table.values()) if isinstance(table, dict) else []


def others_of(executor: Optional[Executor], kind: type, fl_ctx: FLContext) -> List[Executor]:
    """Returns the other executors of a kind that the job has."""
    return [other for other in set(executors_of(fl_ctx)) - {executor} if isinstance(other, kind)]


def _hands_on(executor: Executor) -> bool:
    return hasattr(getattr(type(executor), "execute", None), "looks_at_no_arrays")


def _names(kinds: Set[type], prop: str) -> bool:
    """Whether the source of one of the classes, and what is beside it, names a property of the context.

    Beside it is its module, and for the job's own code all of that: any of it may be a helper of the component's.
    """
    modules = {inspect.getmodule(base) for kind in kinds for base in kind.__mro__} - {builtins}
    try:
        texts = [inspect.getsource(module) for module in modules]
        own_code = {folder for folder in map(_custom_folder, modules) if folder}
        texts += [path.read_text(errors="replace") for folder in own_code for path in folder.rglob("*.py")]
    except (OSError, TypeError, IndexError):
        return True  # nobody can tell
    return any(re.search(rf"\b({prop})\b", text) for text in texts)


def _custom_folder(module: ModuleType) -> Optional[Path]:
    """Returns the folder of a job's own code that a module was imported from, if it was."""
    path, levels = Path(inspect.getfile(module)), module.__name__.split(".")
    folder = path.parents[len(levels) if path.name == "__init__.py" else len(levels) - 1]
    return folder if folder.name == WorkspaceConstants.CUSTOM_FOLDER_NAME else None
