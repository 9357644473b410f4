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
"""The migration tool: how it finds, reads and writes files, and what it does with bad input."""

import copy
import io
import json
import random
import shutil
import stat
import sys
from pathlib import Path

import pytest

from nvflare.app_common.executors.client_api.migrate import (
    NOT_MIGRATED,
    OK,
    USAGE,
    MigrationError,
    find_configs,
    main,
    write_in_place,
)
from nvflare.fuel.utils.config_factory import ConfigFactory
from nvflare.lighter.utils import (
    Identity,
    generate_cert,
    generate_keys,
    serialize_cert,
    sign_folders,
    verify_folder_signature,
)
from tests.unit_test.app_common.executors.client_api.migration_parts import JOBS, config_file, load, new_executors

SHAPES = sorted(path.name for path in JOBS.iterdir() if path.name != "two_sites")


class TestWriting:
    @pytest.fixture
    def two_sites(self, tmp_path):
        return shutil.copytree(JOBS / "two_sites", tmp_path / "job")

    @pytest.fixture
    def signer(self, tmp_path):
        """nvflare's own: one function signs a job's folder, the other tells whether a server would take it."""
        key, public_key = generate_keys()
        path = tmp_path / "signer.crt"
        path.write_bytes(serialize_cert(generate_cert(Identity("a"), Identity("a"), key, public_key, ca=True)))
        return lambda job: sign_folders(job, key, path), lambda job: verify_folder_signature(job, path)

    def test_report_alone_writes_nothing(self, two_sites, capsys):
        before = {path: path.read_bytes() for path in two_sites.rglob("*.json")}
        assert main([str(two_sites)]) == OK
        assert {path: path.read_bytes() for path in two_sites.rglob("*.json")} == before
        assert "2 of 2 configs to be changed, nothing was written" in capsys.readouterr().out

    def test_diff_alone_is_on_stdout(self, two_sites, capsys):
        before = {path: path.read_bytes() for path in two_sites.rglob("*.json")}
        assert main([str(two_sites), "--diff"]) == OK
        captured = capsys.readouterr()
        assert {line[:1] for line in captured.out.splitlines()} == {"-", "+", "@", " "}
        assert "--- a/app_site-1/config/config_fed_client.json" in captured.out
        assert "2 of 2 configs" in captured.err
        assert {path: path.read_bytes() for path in two_sites.rglob("*.json")} == before

    def test_in_place_changes_every_app_and_keeps_modes(self, two_sites):
        path = two_sites / "app_site-1" / "config" / "config_fed_client.json"
        path.chmod(0o640)
        assert main([str(two_sites), "--in-place"]) == OK
        for site in ("site-1", "site-2"):
            config = load(two_sites / f"app_{site}" / "config" / "config_fed_client.json")
            assert new_executors(config)[0]["args"]["task_script_args"] == f"--site {site[-1]}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_out_is_a_whole_job(self, two_sites, tmp_path):
        before = {path: path.read_bytes() for path in two_sites.rglob("*.json")}
        assert main([str(two_sites), "--out", str(tmp_path / "new")]) == OK
        assert {path: path.read_bytes() for path in two_sites.rglob("*.json")} == before
        names = [
            sorted(str(path.relative_to(root)) for path in root.rglob("*")) for root in (two_sites, tmp_path / "new")
        ]
        assert names[0] == names[1]
        for path in (tmp_path / "new").glob("*/config/config_fed_client.json"):
            assert new_executors(load(path))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["job", "new"]

    def test_copy_of_a_read_only_job_can_be_worked_on(self, two_sites, tmp_path):
        config = two_sites / "app_site-1" / "config" / "config_fed_client.json"
        config.chmod(0o440)
        folders = [config.parent, config.parents[1], two_sites]
        for folder in folders:
            folder.chmod(0o550)
        code = main([str(two_sites), "--out", str(tmp_path / "new")])
        copies = [tmp_path / "new" / path.relative_to(two_sites) for path in (config, *folders)]
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (config, *folders, *copies)]
        for folder in folders:
            folder.chmod(0o750)
        assert code == OK and new_executors(load(copies[0]))
        assert modes == [0o440, 0o550, 0o550, 0o550, 0o440, 0o750, 0o750, 0o750]

    @pytest.mark.parametrize("action", [[], ["--diff"]])
    def test_characters_that_the_terminal_has_not(self, action, two_sites, monkeypatch):
        path = two_sites / "app_site-1" / "config" / "config_fed_client.json"
        path.write_text(path.read_text().replace("--site 1", "--site \u00e4"), encoding="utf-8")
        job = two_sites.rename(two_sites.with_name(b"j\xf6b".decode(errors="surrogateescape")))
        terminals = [io.TextIOWrapper(io.BytesIO(), "ascii") for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", terminals[0])
        monkeypatch.setattr(sys, "stderr", terminals[1])
        assert main([str(job), *action]) == OK
        assert main([str(job / "missing")]) == USAGE
        for terminal in terminals:
            terminal.flush()
        assert b"--site \\xe4" in terminals[0].buffer.getvalue()
        assert b"j\\udcf6b/missing is not a folder" in terminals[1].buffer.getvalue()

    def test_out_must_not_exist_nor_be_inside(self, two_sites, tmp_path, capsys):
        for out in (tmp_path, two_sites / "app_server" / "new"):
            assert main([str(two_sites), "--out", str(out)]) == USAGE
        assert main([str(two_sites), "--out", str(tmp_path / "no" / "where")]) == NOT_MIGRATED
        assert capsys.readouterr().err.count("\n") == 3

    def test_links_of_a_copy_lead_where_those_of_the_job_do(self, two_sites, tmp_path):
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "main.py").write_text("print(1)")
        app = two_sites / "app_site-1"
        (app / "custom").symlink_to("../../shared")
        (app / "absolute.py").symlink_to(tmp_path / "shared" / "main.py")
        (app / "inside.json").symlink_to(app / "config" / "config_fed_client.json")
        (app / "beside").symlink_to("../app_site-2")
        (app / "nowhere").symlink_to("../../nothing")
        (tmp_path / "deep" / "er").mkdir(parents=True)
        out = tmp_path / "deep" / "er" / "new"
        assert main([str(two_sites), "--out", str(out)]) == OK
        copy = out / "app_site-1"
        for link in (copy / "custom" / "main.py", copy / "absolute.py"):
            assert link.resolve() == tmp_path / "shared" / "main.py"
        assert (copy / "custom").is_symlink()
        assert (copy / "inside.json").resolve() == copy / "config" / "config_fed_client.json"
        assert (copy / "beside").resolve() == out / "app_site-2"
        assert (copy / "nowhere").resolve() == tmp_path / "nothing"

    def test_an_app_that_is_there_twice_is_migrated_once(self, two_sites, tmp_path, capsys):
        (two_sites / "app_site-3").symlink_to("app_site-1")
        assert main([str(two_sites), "--out", str(tmp_path / "new")]) == OK
        assert main([str(two_sites), "--in-place"]) == OK
        assert capsys.readouterr().out.count("2 of 2 configs changed") == 2
        assert new_executors(load(tmp_path / "new" / "app_site-3" / "config" / "config_fed_client.json"))

    @pytest.mark.parametrize("action", [["--in-place"], ["--out", "new"]])
    def test_a_config_outside_of_the_job_is_not_changed(self, action, two_sites, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        config = (two_sites / "app_site-1" / "config").rename(tmp_path / "config")
        (two_sites / "app_site-1" / "config").symlink_to("../../config")
        before = config_file(config).read_bytes()
        assert main([str(two_sites), *action]) == NOT_MIGRATED
        assert "is in a symbolic link out of the job" in capsys.readouterr().err
        assert config_file(config).read_bytes() == before and not (tmp_path / "new").exists()

    def test_config_that_changes_meanwhile_is_left_alone(self, two_sites):
        configs = find_configs(two_sites)
        for config in configs:
            config.migrate("2.8")
        changed = configs[1].path.read_text() + "\n"
        configs[1].path.write_text(changed)
        before = configs[0].path.read_bytes()
        with pytest.raises(MigrationError, match="has changed meanwhile: nothing was written"):
            write_in_place(configs)
        assert configs[0].path.read_bytes() == before and configs[1].path.read_text() == changed
        assert [path.name for path in configs[0].path.parent.iterdir()] == ["config_fed_client.json"]

    def test_app_that_vanishes_meanwhile_leaves_the_others(self, two_sites):
        configs = find_configs(two_sites)
        for config in configs:
            config.migrate("2.8")
        before = configs[0].path.read_bytes()
        shutil.rmtree(configs[1].path.parent)
        with pytest.raises(MigrationError, match="nothing was written"):
            write_in_place(configs)
        assert configs[0].path.read_bytes() == before

    def test_a_signature_that_fits_no_more_is_named(self, two_sites, tmp_path, signer, capsys):
        sign, is_signed = signer
        sign(two_sites)
        assert is_signed(two_sites)
        assert main([str(two_sites), "--in-place"]) == OK
        assert capsys.readouterr().out.count("submit_job signs the whole job anew") == 2 and not is_signed(two_sites)
        sign(two_sites)
        assert main([str(two_sites), "--in-place"]) == OK
        assert is_signed(two_sites) and "signs" not in capsys.readouterr().out

    def test_of_several_configs_the_one_that_nvflare_takes(self, tmp_path, capsys):
        job = shutil.copytree(JOBS / "swarm", tmp_path / "job")
        shutil.copy(JOBS / "in_process_pt" / "config_fed_client.json", job)
        assert main([str(job)]) == OK
        assert "config_fed_client.json:" in capsys.readouterr().out


class TestBadInput:
    @pytest.mark.parametrize(
        "name, content, says",
        [
            ("config_fed_client.json", b"{", "line 1"),
            ("config_fed_client.json", b"", "line 1"),
            ("config_fed_client.json", b"[]", "not a map"),
            ("config_fed_client.json", b"\xff\xfe\x00", "not a text file"),
            ("config_fed_client.json", b'\xef\xbb\xbf{"a": 1}', "begins with a byte order mark, and nvflare cannot"),
            ("config_fed_client.conf", b"\xef\xbb\xbfa = 1\n", "begins with a byte order mark, and nvflare cannot"),
            ("config_fed_client.json", b"{" * 100000, "line 1"),
            ("config_fed_client.json", b"[" * 100000, "nested too deeply"),
            ("config_fed_client.json", b'{"a": 1, "a": 2}', "the key a is there twice"),
            ("config_fed_client.json", b'{"a": 1,}', "a comma behind the last entry"),
            ("config_fed_client.conf", b'include "other.conf"\n', "include: put the included text in its place"),
            ("config_fed_client.conf", b"a = 1\nb = ${a}\n", "line 2: the substitution ${a}"),
            ("config_fed_client.conf", b"a = [1]\na += 2\n", "line 2: a += ..."),
            ("config_fed_client.conf", b'a = "x" y\n', "put together from several parts"),
            ("config_fed_client.conf", b"a {\n", "} is missing"),
            ("config_fed_client.yml", b"a: &x 1\nb: *x\n", "line 1: an anchor or alias"),
            ("config_fed_client.yml", b"a: !!python/object:os.system x\n", "line 1: a tag"),
            (
                "config_fed_client.yml",
                b"a: 1\nb: ${components[0].id}\n",
                "line 2: ${components[0].id} refers to a place",
            ),
            ("config_fed_client.yml", b"a: {b: 1, c: '/${.b}'}\n", "line 1: ${.b} refers to a place that may move"),
            ("config_fed_client.yml", b"a: [\n", "expected the node content"),
            ("config_fed_client.yml", b"a: 1\n---\nb: 1\n", "expected a single document"),
            ("config_fed_client.yml", b"", "the config is empty"),
        ],
    )
    def test_broken_config_is_one_line(self, name, content, says, tmp_path, capsys):
        (tmp_path / name).write_bytes(content)
        assert main([str(tmp_path), "--in-place"]) == NOT_MIGRATED
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and says in captured.err and captured.out == ""
        assert (tmp_path / name).read_bytes() == content

    @pytest.mark.parametrize(
        "place", ["", "config", "app/config", "app", "config/deep/er", "app/config/deep", "app_1/config"]
    )
    def test_config_is_found_where_nvflare_does(self, place, tmp_path, capsys):
        """An app's config may be anywhere in its config folder; templates have it directly in theirs."""
        source = config_file(JOBS / "in_process")
        folder = tmp_path / "job" / place
        folder.mkdir(parents=True)
        shutil.copy(source, folder)
        assert main([str(tmp_path / "job"), "--in-place"]) == OK
        assert new_executors(load(folder / source.name))
        if place.endswith("deep/er"):
            assert ConfigFactory.search_config_format("config_fed_client.json", [str(tmp_path / "job" / "config")])[1]

    def test_the_kind_of_file_decides_before_the_depth(self, tmp_path):
        sources = [config_file(JOBS / name) for name in ("in_process", "in_process_pt")]
        (tmp_path / "config" / "deep").mkdir(parents=True)
        shallow = shutil.copy(sources[0], tmp_path / "config")
        deep = shutil.copy(sources[1], tmp_path / "config" / "deep")
        assert main([str(tmp_path), "--in-place"]) == OK
        assert ConfigFactory.search_config_format("config_fed_client.json", [str(tmp_path / "config")])[1] == str(deep)
        assert new_executors(load(Path(deep)))
        assert Path(shallow).read_bytes() == sources[0].read_bytes()

    def test_no_job(self, tmp_path, capsys):
        (tmp_path / "file").touch()
        for path in (tmp_path / "missing", tmp_path / "file", tmp_path):
            assert main([str(path)]) == USAGE
        assert capsys.readouterr().err.count("\n") == 3

    def test_a_folder_of_jobs(self, tmp_path, capsys):
        job = shutil.copytree(JOBS / "two_sites", tmp_path / "jobs" / "job")
        assert main([str(job.parent)]) == USAGE
        assert f"migrate the jobs in it one by one, such as {job}" in capsys.readouterr().err

    def test_symlinks_and_folders_are_no_configs(self, tmp_path, capsys):
        (tmp_path / "link").mkdir()
        (tmp_path / "link" / "config_fed_client.conf").symlink_to(config_file(JOBS / "swarm"))
        (tmp_path / "folder" / "config_fed_client.conf").mkdir(parents=True)
        assert main([str(tmp_path / "link")]) == NOT_MIGRATED
        assert main([str(tmp_path / "folder")]) == NOT_MIGRATED
        lines = capsys.readouterr().err.splitlines()
        assert "is a symbolic link" in lines[0] and "is not a file" in lines[1] and len(lines) == 2

    def test_usage(self, capsys):
        for arguments in ([], [""], [".", "--out", ""], [".", "--target", "3"], [".", "--diff", "--in-place"]):
            with pytest.raises(SystemExit) as e:
                main(arguments)
            assert e.value.code == USAGE
        capsys.readouterr()

    @pytest.mark.parametrize("name", SHAPES)
    def test_mutilated_configs_never_end_in_a_traceback(self, name, tmp_path, capsys):
        """Characters removed, doubled and changed by a fixed seed; and values changed in a config that parses."""
        source = config_file(JOBS / name)
        path = tmp_path / source.name
        text = source.read_text().split("limitations under the License.")[-1].replace("train.py", "t.py")
        chance = random.Random(name)
        for _ in range(40):
            mutant = list(text)
            for _ in range(chance.randrange(1, 4)):
                at = chance.randrange(len(mutant))
                mutant[at : at + chance.randrange(3)] = chance.choice(["", "{", "]", '"', "5", ",", "\n", "é", "null"])
            path.write_text("".join(mutant))
            before = path.read_bytes()
            code = main([str(tmp_path), "--in-place"])
            assert code in (OK, NOT_MIGRATED)
            assert code == OK or path.read_bytes() == before
        capsys.readouterr()

    @pytest.mark.parametrize("value", [None, 5, "x", [], {}, [None], {"a": {}}, "{self}", True])
    def test_values_of_any_kind(self, value, tmp_path, capsys):
        source = load(config_file(JOBS / "launcher_metrics"))
        places = [(source, ["executors", 0, "executor", "args", key]) for key in ("launcher_id", "pipe_id")]
        places += [(source, ["executors", 0, *rest]) for rest in ([], ["tasks"], ["executor"], ["executor", "args"])]
        places += [(source, ["components", i, *rest]) for i in range(6) for rest in ([], ["id"], ["path"], ["args"])]
        places += [(source, [key]) for key in ("executors", "components", "task_data_filters")]
        for config, where in places:
            mutant = copy.deepcopy(config)
            holder = mutant
            for key in where[:-1]:
                holder = holder[key]
            holder[where[-1]] = value
            (tmp_path / "config_fed_client.json").write_text(json.dumps(mutant))
            assert main([str(tmp_path)]) in (OK, NOT_MIGRATED), where
        capsys.readouterr()
