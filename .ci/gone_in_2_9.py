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

"""Compares two releases of nvflare: what the first has and the second has not, of what a job can name.

    python .ci/gone_in_2_9.py OLD NEW > nvflare/app_common/executors/client_api/migration/gone_in_2_9.py

OLD and NEW are the folders of the two packages: site-packages/nvflare of 2.8.3 and of 2.9.0. They are read, not
imported. What this project has added to one of them does not count.
"""

import ast
import sys
from pathlib import Path

OURS = Path(__file__).parent.parent / "nvflare"
TITLE = "What jobs of nvflare 2.8 can name and nvflare 2.9 does not have: made by .ci/gone_in_2_9.py, not by hand."


def modules(package: Path) -> dict:
    """Returns name -> text of each module."""
    result = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        result[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return result


def classes(module: str) -> dict:
    """Returns name -> constructor arguments of each public class; without those of a constructor that takes any."""
    result = {}
    for node in ast.parse(module).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            constructors = [item for item in node.body if getattr(item, "name", "") == "__init__"]
            arguments = [item.args for item in constructors if item.args.kwarg is None]
            result[node.name] = [a.arg for found in arguments for a in found.args[1:] + found.kwonlyargs]
    return result


def main(old_package: str, new_package: str) -> None:
    old, new = modules(Path(old_package)), modules(Path(new_package))
    gone = sorted(old.keys() - new.keys() - modules(OURS).keys())
    roots = [name for name in gone if name.rpartition(".")[0] not in gone]
    lost_classes = sorted(f"{module}.{name}" for module in gone for name in classes(old[module]))
    lost_arguments = {}
    for module in sorted(name for name in old.keys() & new.keys() if old[name] != new[name]):
        before, after = classes(old[module]), classes(new[module])
        for name in before.keys() & after.keys():
            missing = [argument for argument in before[name] if argument not in after[name]]
            # Components alone: what the Job API makes is no part of a job.
            if missing and after[name] and not module.startswith(("nvflare.job_config", "nvflare.app_opt.pt.recipes")):
                lost_arguments[f"{module}.{name}"] = missing
    print(HEADER + f'"""{TITLE}"""' + "\n")
    print("# Modules and packages, with all that they have.\nMODULES = (")
    print("".join(f'    "{name}",\n' for name in roots) + ")")
    print("# The public classes in them.\nCLASSES = (")
    print("".join(f'    "{name}",\n' for name in lost_classes) + ")")
    print("# Constructor arguments of components that are there.\nARGUMENTS = {")
    for name, arguments in lost_arguments.items():
        print(f'    "{name}": (\n' + "".join(f'        "{argument}",\n' for argument in arguments) + "    ),")
    print("}")


HEADER = Path(__file__).read_text().partition('"""')[0]

if __name__ == "__main__":
    main(*sys.argv[1:])
