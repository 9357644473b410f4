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

"""How what a script logs gets into the site's log: as lines of the trainer's output, each with its level and logger.

    a logger of the script -> log_to_output() ... a line of output ... -> log_line() -> the handlers of the site's log

The first end is in the trainer's process, the second in the job's. The format is that of `logging.basicConfig()`, so
that the lines of a script, or of a rank, that has set up its own logging like that are taken the same way.
"""

import logging
import os
import re
import sys
import traceback
from functools import partial
from typing import Callable, Dict, NamedTuple, Tuple

import nvflare
from nvflare.app_common.executors.client_api.formats.outside_text import readable
from nvflare.app_common.executors.task_script_runner import log_print
from nvflare.security.logging import is_secure

_NVFLARE = os.path.join(os.path.dirname(nvflare.__file__), "")
_LEVELS = {name: getattr(logging, name) for name in ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL", "FATAL")}
_LEVELS.update({name[0]: level for name, level in _LEVELS.items() if name != "CRITICAL"})  # glog's letters
_NAMES = "|".join(name for name in _LEVELS if len(name) > 1)
# Bounded repetitions over so much of a line only: whatever a script prints, the time is linear in it, and small.
_HEAD = 300
_TIME = r"\[?(?:\d{2,4}[-/]\d\d[-/]\d{2,4}[ T])?\d\d:\d\d:\d\d[.,\d]{0,10}Z?\]?"
_LEVEL_PATTERN = re.compile(
    r"(?:\[[a-z]{1,9}\d{1,4}\]: ?)?(?:"  # a rank's, as torch marks them
    rf"{_TIME}[\s|:-]{{0,4}}(?:\S{{1,99}} [|-] |\S{{1,99}} (?=\[)|\[\S{{1,99}}?\](?=\[)){{0,2}}?"  # time, names, level
    rf"\[?(?P<after_time>{_NAMES})\b|{_TIME}: (?P<letter>[IWEF]) "
    rf"|\[?(?P<first>{_NAMES})(?::|\]|\|| - )|\[?(?P<glog>[DIWEF])\d{{4}} \d\d:\d\d:\d\d)"
)
_RECORD = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL):(?:([A-Za-z_][\w.-]{0,99}):)?")
_NOT_IN_NAMES = re.compile(r"[^\w.-]")
_MAX_NAME = 100


class LogLine(NamedTuple):
    """What a line of output announces of itself, and the text that is left."""

    level: int  # logging.INFO if it says nothing
    logger: str  # "" if it names none
    text: str


def read_line(line: str) -> LogLine:
    """Reads a line of output; levels are known in the common formats, names of loggers in log_to_output's."""
    record = _RECORD.match(line)
    if record:
        return LogLine(_LEVELS[record[1]], record[2] or "", line[record.end() :])
    match = _LEVEL_PATTERN.match(line, 0, _HEAD)
    return LogLine(_LEVELS[match[match.lastgroup]] if match else logging.INFO, "", line)


def log_line(line: str, launcher: logging.Logger, highest: int) -> None:
    """Logs a line of output under the logger that it names, as far as the site's log takes that one's level.

    Args:
        line: of output.
        launcher: for lines that name no logger, or one of nvflare's: for that a script cannot speak.
        highest: level that a line may have.
    """
    level, name, text = read_line(line)
    level = min(level, highest)
    if not name or name.partition(".")[0] == "nvflare":
        launcher.log(level, "%s", f"{name}: {text}" if name else text)
        return
    logger = _logger_for(name)
    if logger.isEnabledFor(level):
        logger.handle(logger.makeRecord(name, level, "(trainer)", 0, text, (), None))


def _logger_for(name: str) -> logging.Logger:
    # The nearest one that there is: names come from outside, and Python keeps for ever each logger that it makes.
    known = logging.root.manager.loggerDict
    while name and not isinstance(known.get(name), logging.Logger):
        name = name.rpartition(".")[0]
    return logging.getLogger(name)


def site_levels() -> Dict[str, int]:
    """Returns the levels that this process's loggers were given, by name; that of the root logger by ""."""
    loggers: Tuple = (("", logging.root), *list(logging.root.manager.loggerDict.items()))
    return {name: logger.level for name, logger in loggers if isinstance(logger, logging.Logger) and logger.level}


def log_to_output(levels: Dict[str, int], told: Tuple[str, ...]) -> None:
    """Sends what a script logs, Python's warnings too, to its output.

    A script that has set up its logging keeps it, and so does a logger that has a handler for the output.

    Args:
        levels: from site_levels() of the job's process: less is not sent, so that the site's log decides.
        told: modules of nvflare's whose INFO is the user's; nvflare tells of each connection, callback and array.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_LineFormatter())
    handler.addFilter(lambda record: not _writes_itself(record))
    root.addHandler(handler)
    root.setLevel(levels.get("", logging.INFO))
    logging.captureWarnings(True)
    quiet = {"nvflare": logging.WARNING, **dict.fromkeys(told, logging.INFO)} if root.level > logging.DEBUG else {}
    for name, level in {**quiet, **levels}.items():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(level)


def _writes_itself(record: logging.LogRecord) -> bool:
    """Whether the record's logger, or one above it, has a handler of its own that writes it to the output."""
    logger = logging.getLogger(record.name)
    while logger is not None and logger is not logging.root:
        for handler in logger.handlers:
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr) and record.levelno >= handler.level:
                return True
        logger = logger.parent
    return False


def logging_print(original_print: Callable) -> Callable:
    """Returns a print() for in_process: it logs what goes to the standard output, and prints what goes to a file.

    A script that redirects its standard output has it where it wants it.
    """
    stdout = sys.stdout

    def print_to_log(*args, sep=None, file=None, **kwargs):
        file = sys.stdout if file is None else file
        if file is stdout:
            text = (" " if sep is None else sep).join(str(arg) for arg in args)
            for line in text.lstrip("\r").splitlines() or [""]:  # a progress line begins by going back to the margin
                log_print(readable(line))
        else:
            original_print(*args, sep=sep, file=file, **kwargs)

    return print_to_log


_silent_scripts = set()


def keep_out_of_error_log(script: str) -> None:
    """Has this process log at INFO at most what a script may have said, for error logs go to the server.

    That is whatever no code of nvflare's logs, or the script has it log: of a thread of the script's, of a library, one
    cannot tell whose it is. This is for good: threads of a script outlive it.

    Args:
        script: path of the script.
    """
    if not _silent_scripts:
        logging.setLogRecordFactory(partial(_make_record, logging.getLogRecordFactory()))
    _silent_scripts.add(script)


def _make_record(make: Callable, name, level, path, *args, **kwargs) -> logging.LogRecord:
    if level and level > logging.INFO and is_secure():  # none: the record is a copy of one
        callers = {frame.f_code.co_filename for frame, _ in traceback.walk_stack(None)}
        if not path.startswith(_NVFLARE) or callers & _silent_scripts:
            level = logging.INFO
    return make(name, level, path, *args, **kwargs)


class _LineFormatter(logging.Formatter):
    """Gives each line of a record, those of a traceback too, its level and logger."""

    def format(self, record: logging.LogRecord) -> str:
        standard = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO)
        level = next((level for level in standard if record.levelno >= level), logging.DEBUG)
        head = f"{logging.getLevelName(level)}:{_NOT_IN_NAMES.sub('_', record.name)[:_MAX_NAME]}:"
        return "\n".join(head + line for line in super().format(record).splitlines() or [""])
