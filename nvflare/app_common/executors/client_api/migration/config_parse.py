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

"""What a job config means: the data that nvflare reads from its text."""

import json
import re

import yaml

from nvflare.app_common.executors.client_api.migration.config_scan import JSON, YAML, ConfigEditError
from nvflare.fuel.utils.config import ConfigFormat
from nvflare.fuel.utils.config_factory import ConfigFactory


def parse(text: str, syntax: str) -> dict:
    """Returns the data of a config as nvflare reads it.

    Raises:
        ConfigEditError: it is broken, and why.
    """
    try:
        if syntax == JSON:
            data = json.loads(text)
        elif syntax == YAML:
            data = yaml.load(text, _YamlLoader)  # what OmegaConf has before it resolves its own references
        else:
            data = ConfigFactory.get_config_loader(ConfigFormat.PYHOCON).load_config_from_str(text).to_dict()
    except Exception as e:  # of three parsers, each with errors of its own
        raise ConfigEditError(" ".join(str(e).split())[:300] or type(e).__name__) from e
    if not isinstance(data, dict):
        raise ConfigEditError("the config is not a map of keys to values")
    return data


class _YamlLoader(yaml.SafeLoader):
    """As OmegaConf, which nvflare has for YAML and need not be installed here: it knows more floats, and no dates."""

    yaml_implicit_resolvers = {
        first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
