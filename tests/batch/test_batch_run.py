"""Inputs, engines and tables: one record per input, whatever happens, in order, with memory bounded."""

import csv
import io
import json
import os
import threading
import time

import jsonschema
import pyarrow.parquet as pq
import pytest

from vlmforensics.batch import Inputs, Job, Ledger, LocalEngine, Worker, make_engine, run_batch, write_table
from vlmforensics.errors import SettingsError
from vlmforensics.report import schema

CHECKER = jsonschema.Draft202012Validator(schema())


@pytest.fixture
def folder(fakes, tmp_path):
    """Five good pictures and four bad files, one of them under an odd name."""
    root = tmp_path / "in"
    for index in range(5):
        fakes.write(root / f"good{index}.jpg", index)
    (root / "text.jpg").write_text("not a picture")
    (root / "empty.png").write_bytes(b"")
    (root / "cut.jpg").write_bytes((root / "good0.jpg").read_bytes()[:300])
    (root / "sub").mkdir()
    (root / "sub" / "ünï =1+1\n.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (root / ".hidden.jpg").write_bytes(b"hidden")
    return root


def run(fakes, folder, out, engine=None, stop=lambda: False, resume=False, **parts):
    jobs = Inputs([folder], exclude=[out])
    with Ledger(out, resume=resume) as ledger:
        worker = Worker(fakes.make(**parts), with_text=False)
        return list(run_batch(jobs, ledger, engine or LocalEngine(2), lambda: worker, stop=stop))


def test_one_valid_record_per_file(fakes, folder, tmp_path):
    records = run(fakes, folder, tmp_path / "out.jsonl")
    assert len(records) == 9
    for record in records:
        CHECKER.validate(record)
        assert (record["verdict"] is None) == (record["error"] is not None)
        assert record["sha256"] is not None
    assert sum(record["error"] is None for record in records) == 5
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == records


def test_engines_and_worker_counts_agree(fakes, folder, tmp_path):
    first = run(fakes, folder, tmp_path / "1.jsonl", LocalEngine(1))
    second = run(fakes, folder, tmp_path / "2.jsonl", LocalEngine(4))
    assert [r | {"timing": {}} for r in first] == [r | {"timing": {}} for r in second]


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_the_same_records(fakes, folder, tmp_path):
    pytest.importorskip("ray")
    local = run(fakes, folder, tmp_path / "local.jsonl")
    source = str(fakes.__file__)

    def factory():
        import importlib.util

        spec = importlib.util.spec_from_file_location("ray_fakes", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return Worker(module.make(), with_text=False)

    with Ledger(tmp_path / "ray.jsonl") as ledger:
        engine = make_engine("ray", workers=2)
        records = list(run_batch(Inputs([folder]), ledger, engine, factory))
    assert [r | {"timing": {}} for r in records] == [r | {"timing": {}} for r in local]


def test_resume_examines_the_rest_once(fakes, folder, tmp_path):
    out = tmp_path / "out.jsonl"
    done = []

    def stop():
        return len(done) >= 1

    jobs = list(Inputs([folder]))
    with Ledger(out) as ledger:
        worker = Worker(fakes.make(), with_text=False)
        for record in run_batch(jobs, ledger, LocalEngine(2), lambda: worker, stop=stop):
            done.append(record["file"])
    assert 1 <= len(done) < len(jobs)
    rest = run(fakes, folder, out, resume=True)
    names = [record["file"] for record in rest] + done
    assert sorted(names) == sorted(job.file for job in jobs)
    assert run(fakes, folder, out, resume=True) == []


def test_a_file_that_changed_is_examined_again(fakes, folder, tmp_path):
    out = tmp_path / "out.jsonl"
    run(fakes, folder, out)
    fakes.write(folder / "good1.jpg", 77)
    again = run(fakes, folder, out, resume=True)
    assert [record["file"] for record in again] == [str(folder / "good1.jpg")]


def test_stop_finishes_what_is_under_way_and_begins_nothing_more():
    begun, stopped = [], threading.Event()

    def work(job):
        begun.append(job.file)
        time.sleep(0.05)
        return {"file": job.file}

    jobs = [Job(str(index), str(index)) for index in range(50)]
    seen = []
    for record in LocalEngine(3).run(jobs, lambda: work, stopped.is_set):
        seen.append(record["file"])
        if len(seen) == 2:
            stopped.set()
    assert sorted(seen) == sorted(begun)
    assert len(begun) < 15


def test_jobs_are_read_only_a_little_ahead():
    read = []

    def jobs():
        for index in range(100):
            read.append(index)
            yield Job(str(index), "")

    stream = LocalEngine(2).run(jobs(), lambda: lambda job: {"file": job.file}, lambda: False)
    next(stream)
    assert len(read) <= 5
    stream.close()


def test_inputs_of_a_folder_are_sorted_and_regular(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2", "b/1", "a", "c.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    jobs = Inputs([tmp_path], exclude=[tmp_path / "c.txt"])
    assert [os.path.relpath(job.file, tmp_path) for job in jobs] == ["a", "b/1", "b/2"]


def test_names_that_are_not_utf8_are_found_and_recorded(fakes, tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    source = fakes.write(tmp_path / "plain.jpg")
    try:
        source.rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (record,) = run(fakes, tmp_path, tmp_path.parent / f"{tmp_path.name}.jsonl")
    assert record["file"].endswith(name)
    assert record["verdict"] is not None


def test_what_does_not_exist_is_a_usage_error(tmp_path):
    with pytest.raises(SettingsError, match="does not exist"):
        Inputs([tmp_path / "none"])
    with pytest.raises(SettingsError, match="engine"):
        make_engine("spark")
    with pytest.raises(SettingsError, match="worker"):
        make_engine("local", workers=0)


def test_a_crash_of_the_assistant_itself_is_one_error_record(fakes, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("vlmforensics.assistant.core.pixel_gates", lambda pixels: 1 / 0)
    records = run(fakes, folder, tmp_path / "out.jsonl")
    assert len(records) == 9
    assert {record["error"]["code"] for record in records if "good" in record["file"]} == {"defect"}


def test_csv_runs_no_formula(fakes, tmp_path):
    fakes.write(tmp_path / "in" / "=cmd()|'x'!A1.jpg")
    out = tmp_path / "out.jsonl"
    os.chdir(tmp_path / "in")
    with Ledger(out) as ledger:
        worker = Worker(fakes.make(), with_text=False)
        list(run_batch(Inputs(["=cmd()|'x'!A1.jpg"]), ledger, LocalEngine(1), lambda: worker))
    text = write_table(out, tmp_path / "t.csv").read_text(encoding="utf-8")
    assert text.startswith("\ufeff")
    (row,) = csv.DictReader(io.StringIO(text[1:]))
    assert row["file"].startswith("'=cmd()")
    assert float(row["p_real"]) + float(row["p_synthetic"]) + float(row["p_tampered"]) == pytest.approx(1)


def test_parquet_has_declared_types_even_where_all_is_null(fakes, tmp_path):
    (tmp_path / "bad.jpg").write_text("x")
    out = tmp_path / "out" / "out.jsonl"
    out.parent.mkdir()
    run(fakes, tmp_path, out)
    table = pq.read_table(write_table(out, tmp_path / "out" / "t.parquet"))
    assert str(table.schema.field("width").type) == "int32"
    assert str(table.schema.field("verdict").type) == "string"
    assert table.column("error_code").to_pylist() == ["img.text"]
    with pytest.raises(SettingsError):
        write_table(out, tmp_path / "t.xlsx")


def test_tables_take_text_that_is_not_utf8(fakes, tmp_path):
    out = tmp_path / "out.jsonl"
    with Ledger(out) as ledger:
        worker = Worker(fakes.make(), with_text=False)
        lost = Job("lost", "lost", trouble="caf\udce9.tar is not a whole plain tar file")
        (record,) = run_batch([lost], ledger, LocalEngine(1), lambda: worker)
        ledger.append(record | {"file": "told", "explanation": "One \ud800.\nTwo."})
    rows = pq.read_table(write_table(out, tmp_path / "t.parquet")).to_pylist()
    assert rows[0]["error"] == "caf\\udce9.tar is not a whole plain tar file"
    assert rows[1]["explanation"] == "One \\ud800.\nTwo."
    assert "caf\\udce9.tar" in write_table(out, tmp_path / "t.csv").read_text(encoding="utf-8")
