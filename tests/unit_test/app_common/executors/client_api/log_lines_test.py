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

import contextlib
import io
import logging
import sys
import warnings

import pytest

from nvflare.app_common.executors.client_api.formats.log_lines import (
    log_line,
    log_to_output,
    logging_print,
    read_line,
    site_levels,
)
from nvflare.app_common.executors.client_api.formats.outside_text import clip_cause


class Site:
    """The log of a site, with one handler, and what is in it; both ends of the way there are in this process."""

    def __init__(self):
        self.records = []
        self.output = io.StringIO()
        self.launcher = logging.getLogger("nvflare.launcher_of_this_test")

    def take(self, text: str = "", highest: int = logging.CRITICAL) -> list:
        """Has the site log what was written, or the text; returns (logger, level, message) of each record."""
        for line in (text or self.output.getvalue()).splitlines():
            log_line(line, self.launcher, highest)
        return [(record.name, record.levelno, record.getMessage()) for record in self.records]


def set_levels(levels: dict):
    for name in ("", *site_levels()):
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


@pytest.fixture
def site(monkeypatch):
    site = Site()
    handler = logging.Handler()
    handler.emit = site.records.append
    before = site_levels()
    monkeypatch.setattr(logging.root, "handlers", [handler])
    logging.root.setLevel(logging.INFO)
    yield site
    logging.captureWarnings(False)
    set_levels(before)


@pytest.fixture
def script(site, monkeypatch):
    """Gives the process the logging that a script has, of a site whose log has the given levels."""

    def log(levels: dict, logged):
        monkeypatch.setattr(sys, "stdout", site.output)
        handlers, logging.root.handlers = logging.root.handlers, []
        before = site_levels()
        try:
            log_to_output(levels, told=("nvflare.told",))
            logged()
        finally:
            logging.root.handlers = handlers
            set_levels(before)

    return log


@pytest.mark.parametrize(
    "line, level",
    [
        ("2026-01-01 12:00:00,123 - Trainer - ERROR - bad", logging.ERROR),
        ("2026-01-01 12:00:00,123 - a.b - WARNING - [job] - odd", logging.WARNING),
        ("2026-01-01 12:00:00,123 - Trainer - CRITICAL - bad", logging.CRITICAL),
        ("[2026-01-01 12:00:00,123] [DEBUG] [engine.py:1] step", logging.DEBUG),
        ("2026-01-01T12:00:00.5Z WARN slow", logging.WARNING),
        ("ERROR:root:bad", logging.ERROR),
        ("[WARNING] odd", logging.WARNING),
        ("CRITICAL - bad", logging.CRITICAL),
        ("W0101 12:00:00.123456 99 api.py:7] odd", logging.WARNING),
        ("2026-01-01 12:00:00,123 my.trainer [WARNING] odd", logging.WARNING),
        ("2026-01-01 12:00:00,123:WARNING:odd", logging.WARNING),
        ("2026-01-01 12:00:00,123 | a.b | ERROR | bad", logging.ERROR),
        ("12:00:00 WARNING odd", logging.WARNING),
        ("01/31/2026 12:00:00 - WARNING - __main__ - as in transformers' examples", logging.WARNING),
        ("[WARNING|trainer.py:12] 2026-01-01 12:00:00,123 >> of transformers", logging.WARNING),
        ("[2026-01-01 12:00:00,123][my.trainer][ERROR] - of hydra", logging.ERROR),
        ("2026-01-01 12:00:00.123 | ERROR    | my:f:1 - of loguru", logging.ERROR),
        ("[12:00:00] WARNING: /src/a.cc:1: of xgboost", logging.WARNING),
        ("2026-01-01 12:00:00.123456: W a/b.cc:1] of tensorflow", logging.WARNING),
        ("[rank1]:[W101 12:00:00.123 a.cpp:1] not of torch", logging.INFO),
        ("[rank1]:[W0101 12:00:00.123 a.cpp:1] of torch", logging.WARNING),
        ("[default0]:ERROR - of torchrun --tee", logging.ERROR),
        ("2026-01-01 12:00:00 training with WARNING signs", logging.INFO),
        ("12:00:00: Warm-up", logging.INFO),
        ("2026-01-01 12:00:00,123 - Trainer - INFO - ERROR rate 0.1", logging.INFO),
        ("ERROR rate 0.1", logging.INFO),
        ("INFORMATION: x", logging.INFO),
        ("loss 0.1", logging.INFO),
        ("", logging.INFO),
    ],
)
def test_level_of(line, level):
    assert read_line(line).level == level


def test_a_record_keeps_logger_and_level_once(site, script):
    def logged():
        log = logging.getLogger("my.trainer")
        log.debug("d")
        log.info("i %d", 1)
        log.error("e")
        logging.warning("w")
        log.log(25, "between")

    script({"": logging.INFO}, logged)
    assert site.take() == [
        ("my.trainer", logging.INFO, "i 1"),
        ("my.trainer", logging.ERROR, "e"),
        ("root", logging.WARNING, "w"),
        ("my.trainer", logging.INFO, "between"),
    ]


def test_a_logger_with_a_handler_of_its_own_is_told_once(site, script):
    own = logging.StreamHandler(site.output)
    own.setLevel(logging.WARNING)

    def logged():
        log = logging.getLogger("own")
        log.addHandler(own)
        log.info("i")
        log.getChild("part").warning("w")
        log.removeHandler(own)

    script({}, logged)
    assert [record[2] for record in site.take()] == ["i", "w"]


def test_each_line_of_a_traceback_has_the_level(site, script):
    def logged():
        try:
            raise ValueError("one\nERROR:other:two")
        except ValueError:
            logging.getLogger("my").exception("failed")

    script({}, logged)
    records = site.take()
    assert {record[:2] for record in records} == {("my", logging.ERROR)}
    assert records[0][2] == "failed" and records[-1][2] == "ERROR:other:two"


def test_the_levels_of_the_site_decide(site, script):
    def logged():
        for name in ("chatty", "chatty.part", "quiet", "nvflare.cell", "nvflare.told"):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logging.getLogger(name).log(level, name)

    logging.getLogger("chatty").setLevel(logging.DEBUG)
    logging.getLogger("quiet").setLevel(logging.WARNING)
    levels = site_levels()
    assert levels[""] == logging.INFO and levels["chatty"] == logging.DEBUG
    script(levels, logged)
    taken = [(name, level) for name, level, _ in site.take()]
    assert [level for name, level in taken if name == "chatty"] == [logging.DEBUG, logging.INFO, logging.WARNING]
    assert [level for name, level in taken if name == "chatty.part"] == [logging.DEBUG, logging.INFO, logging.WARNING]
    assert [level for name, level in taken if name == "quiet"] == [logging.WARNING]
    assert site.output.getvalue().count("nvflare.told") == 4, "INFO and WARNING: name and text"
    assert site.output.getvalue().count("nvflare.cell") == 2, "WARNING"


def test_the_site_filters_by_the_logger_above(site):
    logging.getLogger("of_the_script").setLevel(logging.ERROR)
    site.take("INFO:of_the_script.sub:no\nERROR:of_the_script.sub:yes")
    assert [record.getMessage() for record in site.records] == ["yes"]
    assert "of_the_script.sub" not in logging.root.manager.loggerDict, "names from outside make no loggers"


def test_no_level_is_above_the_highest(site):
    site.take("ERROR:my:a\nDEBUG:my:b\nERROR:c\nWARNING:nvflare.d:e", logging.INFO)
    assert [record.levelno for record in site.records] == [logging.INFO] * 3


def test_a_script_cannot_speak_for_nvflare(site):
    assert site.take("INFO:nvflare.private.fed.client.client_runner:job done") == [
        (site.launcher.name, logging.INFO, "nvflare.private.fed.client.client_runner: job done")
    ]


def test_odd_names_and_formats_are_text(site, script):
    script({}, lambda: logging.getLogger("a b:c").warning("100%% of %s", "x"))
    assert site.take() == [("a_b_c", logging.WARNING, "100% of x")]
    assert site.take("100 %s %d")[-1] == (site.launcher.name, logging.INFO, "100 %s %d")


def test_what_is_printed_is_logged_line_by_line(site):
    logging_print(print)("a\n2026-01-01 00:00:00,000 - INFO - b\r\x1b[1mc\x00", "\td", sep="")
    logging_print(print)()
    logging_print(print)("\r10%", end="")
    lines = ["a", "2026-01-01 00:00:00,000 - INFO - b", "c\\x00\td", "", "10%"]
    assert [(r.levelno, r.getMessage()) for r in site.records] == [(logging.INFO, line) for line in lines]


def test_what_is_printed_elsewhere_is_not_logged(site):
    to_log, text = logging_print(print), io.StringIO()
    with contextlib.redirect_stdout(text):
        to_log("captured")
    to_log("to a file", file=text)
    to_log("logged", file=sys.stdout)
    assert text.getvalue() == "captured\nto a file\n"
    assert [record.getMessage() for record in site.records] == ["logged"]


def test_warnings_of_python_are_warnings(site, script):
    def logged():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("deprecated", UserWarning)

    script({}, logged)
    name, level, message = site.take()[0]
    assert (name, level) == ("py.warnings", logging.WARNING) and "deprecated" in message


def test_a_script_that_has_set_up_its_logging_keeps_it(site):
    before = list(logging.root.handlers)
    log_to_output({}, told=())
    assert logging.root.handlers == before


@pytest.mark.parametrize("rest", ["-", "1", " - ", "- ", "a", "[", "\x1b["])
def test_a_long_line_costs_no_more_than_its_head(rest):
    line = "2026-01-01 00:00:00" + rest * 1_000_000
    assert read_line(line) == (logging.INFO, "", line)


def test_a_cause_is_indented_and_readable():
    cause = clip_cause("it failed:\n2026-01-01 00:00:00,000 - ClientRunner - INFO - \x1b[1mdone\r")
    assert cause == "it failed:\n  2026-01-01 00:00:00,000 - ClientRunner - INFO - done\\r"
    assert clip_cause(cause) == cause
