"""Everything a batch may be given: globs, lists, tables, shards, twins, and names that hurt."""

import base64
import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmforensics.batch import Inputs, Job, Ledger, LocalEngine, Worker, run_batch
from vlmforensics.batch.containers import Cell, Slice
from vlmforensics.errors import SettingsError, UnreadableFile


def labels(*named, **options):
    return [job.file for job in Inputs([str(name) for name in named], **options)]


def examined(fakes, inputs, out, workers=2, skipped=lambda: None, **options):
    worker = Worker(fakes.make(), with_text=False)
    with Ledger(out, **options) as ledger:
        return list(run_batch(inputs, ledger, LocalEngine(workers), lambda: worker, skipped=skipped))


def test_patterns_are_expanded_and_must_match(tmp_path):
    for name in ("a.jpg", "b.png", "deep/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "[1].jpg").write_text("x")
    assert labels(tmp_path / "**" / "[a-z].jpg") == [str(tmp_path / "a.jpg"), str(tmp_path / "deep/c.jpg")]
    assert labels(tmp_path / "[1].jpg") == [str(tmp_path / "[1].jpg")]  # what exists is no pattern
    with pytest.raises(SettingsError, match="nothing matches"):
        Inputs([str(tmp_path / "*.gif")])


@pytest.mark.parametrize("end", [b"\n", b"\0", b"\r\n"])
def test_a_list_on_standard_input_may_be_read_twice(end, tmp_path):
    names = [os.fsencode(tmp_path / name) for name in ("a.jpg", "b c.jpg", "gone.jpg")]
    inputs = Inputs(["-"], stdin=io.BytesIO(end.join([*names, b""])))
    assert [job.path for job in inputs] == [os.fsdecode(name) for name in names]
    assert inputs.count() == 3


def test_tables_of_paths_are_relative_to_their_folder(fakes, tmp_path):
    fakes.write(tmp_path / "set" / "one.jpg")
    (tmp_path / "set" / "m.csv").write_text("id,path\n1,one.jpg\n2,gone.jpg\n3,\n")
    (tmp_path / "set" / "m.jsonl").write_text('{"image": "one.jpg"}\n\n{"other": 1}\n')
    pq.write_table(pa.table({"file_name": ["one.jpg", None]}), tmp_path / "set" / "m.parquet")
    records = examined(fakes, Inputs([tmp_path / "set" / "m.csv"]), tmp_path / "out.jsonl")
    assert [(r["file"], r["error"] is None) for r in records] == [
        ("one.jpg", True),
        ("gone.jpg", False),
        (f"{tmp_path}/set/m.csv::3", False),
    ]
    assert labels(tmp_path / "set" / "m.jsonl") == ["one.jpg", f"{tmp_path}/set/m.jsonl::2"]
    assert labels(tmp_path / "set" / "m.parquet") == ["one.jpg", f"{tmp_path}/set/m.parquet::1"]


def test_tables_of_bytes_carry_the_pictures(fakes, tmp_path):
    data = [fakes.write(tmp_path / f"{i}.jpg", i).read_bytes() for i in range(3)]
    text = "name,bytes\n" + "".join(f"n{i},{base64.b64encode(d).decode()}\n" for i, d in enumerate(data))
    (tmp_path / "b.csv").write_text(text)
    hub = [{"bytes": d, "path": None} for d in data]  # as Hugging Face datasets write pictures
    pq.write_table(
        pa.table({"img_id": ["x", "y", "z"], "image": hub}), tmp_path / "b.parquet", row_group_size=2
    )
    for name, ids in (("b.csv", ["n0", "n1", "n2"]), ("b.parquet", ["x", "y", "z"])):
        jobs = list(Inputs([tmp_path / name]))
        assert [job.file for job in jobs] == [f"{tmp_path / name}::{i}" for i in ids]
        assert [Job.from_json(job.to_json()).source() for job in jobs] == data
        records = examined(fakes, jobs, tmp_path / f"{name}.jsonl.out")
        assert [record["verdict"] is not None for record in records] == [True] * 3


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_pictures_with_the_same_label_are_all_examined(fakes, tmp_path, workers):
    for place in range(6):
        fakes.write(tmp_path / "ab"[place // 3] / f"{place % 3}.jpg", place, width=64, height=64)
    for name in "ab":
        (tmp_path / name / "list.csv").write_text("path\n0.jpg\n1.jpg\n2.jpg\n")
    data = [
        fakes.encode(fakes.scene(index, 64, 64)) for index in (9, 10, 9, 1)
    ]  # one twice, one with the bytes of a/1.jpg
    rows = [json.dumps({"id": "cat", "bytes": base64.b64encode(d).decode()}) for d in data]
    (tmp_path / "cats.jsonl").write_text("\n".join(rows))
    inputs = Inputs([tmp_path / "a" / "list.csv", tmp_path / "b" / "list.csv", tmp_path / "cats.jsonl"])
    out, left_out = tmp_path / "out.jsonl", []
    records = examined(fakes, inputs, out, workers, lambda: left_out.append(1))
    assert [record["file"] for record in records] == [
        *("0.jpg", "1.jpg", "2.jpg") * 2,
        *[f"{tmp_path}/cats.jsonl::cat"] * 3,
    ]
    assert len({(record["file"], record["sha256"]) for record in records}) == 9
    assert len(left_out) == 1  # the same bytes under the same label
    assert records[-1]["same_bytes_as"] == "1.jpg"
    assert examined(fakes, inputs, out, workers, lambda: left_out.append(1), resume=True) == []
    assert len(left_out) == 11


@pytest.mark.parametrize("workers", [1, 3])
def test_inputs_with_the_same_label_that_can_not_be_read_have_a_record_each(fakes, tmp_path, workers):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "list.csv").write_text("path\n0.jpg\n1.jpg\n")
    fakes.write(tmp_path / "b" / "1.jpg")
    lists = [tmp_path / name / "list.csv" for name in "abca"]  # the first table twice
    out, left_out = tmp_path / "out.jsonl", []

    def again(resume=True):
        return examined(fakes, Inputs(lists), out, workers, lambda: left_out.append(1), resume=resume)

    records = again(resume=False)
    assert [record["file"] for record in records] == ["0.jpg", "1.jpg"] * 3
    assert [record["error"] is None for record in records] == [False, False, False, True, False, False]
    assert len(left_out) == 2
    assert again() == []
    assert len(left_out) == 10
    whole = out.read_bytes().splitlines(keepends=True)
    for kept in range(7):  # interrupted after any number of records
        out.write_bytes(b"".join(whole[:kept]))
        rest = again()
        assert [record["file"] for record in rest] == [record["file"] for record in records[kept:]]
    fakes.write(tmp_path / "c" / "0.jpg", 5)  # one can be read after all
    (late,) = again()
    assert (late["file"], late["error"]) == ("0.jpg", None)


def test_members_with_the_same_name_that_can_not_be_read_have_a_record_each(fakes, tmp_path):
    parts = (Slice(0, 1 << 40), Slice(9, 1 << 40), Slice(0, 1 << 40))  # the first of them twice
    (tmp_path / "s.tar").write_bytes(b"short")
    jobs = [Job("s.tar::a.jpg", str(tmp_path / "s.tar"), part) for part in parts]
    records = examined(fakes, jobs, tmp_path / "out.jsonl")
    assert [record["file"] for record in records] == ["s.tar::a.jpg"] * 2


def test_a_damaged_table_costs_its_damaged_rows_only(fakes, tmp_path):
    picture = fakes.write(tmp_path / "one.jpg")
    table = tmp_path / "b.parquet"
    pq.write_table(pa.table({"bytes": [picture.read_bytes()]}), table)
    (whole,) = Inputs([table])
    cells = (Cell(0, 7, "bytes"), Cell(7, 0, "bytes"), Cell(0, 0, "none"), Cell(0, 0, "bytes", "field"))
    jobs = [whole, *(Job(f"b::{place}", str(table), cell) for place, cell in enumerate(cells))]
    records = examined(fakes, jobs, tmp_path / "out.jsonl")
    assert [record["error"] and record["error"]["code"] for record in records] == [
        None,
        *["img.unreadable"] * 4,
    ]
    names = pa.table({"path": ["one.jpg", "two.jpg"]})
    pq.write_table(names, table, row_group_size=1, compression="none", use_dictionary=False)
    table.write_bytes(table.read_bytes().replace(b"two.jpg", b"tw\xff.jpg"))
    records = examined(fakes, Inputs([table]), tmp_path / "names.jsonl")
    assert [(record["file"], record["error"] is None) for record in records] == [
        ("one.jpg", True),
        (str(table), False),
    ]


def test_a_table_without_a_usable_column_is_a_usage_error(tmp_path):
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SettingsError, match="--column"):
        Inputs([tmp_path / "m.csv"])
    with pytest.raises(SettingsError, match="no column 'c'"):
        Inputs([tmp_path / "m.csv"], column="c")
    (tmp_path / "m.parquet").write_text("not parquet")
    with pytest.raises(SettingsError, match="Parquet"):
        Inputs([tmp_path / "m.parquet"])


@pytest.fixture
def shard(fakes, tmp_path):
    path = tmp_path / "s-000.tar"
    with tarfile.open(path, "w") as tar:
        for index in range(3):
            tar.add(fakes.write(tmp_path / "in" / f"{index}.jpg", index), f"{index:06d}.jpg")
            label = tarfile.TarInfo(f"{index:06d}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"0"))
    return path


def test_shards_give_their_pictures_and_leave_labels_out(fakes, shard, tmp_path):
    records = examined(fakes, Inputs([shard]), tmp_path / "out.jsonl")
    assert [record["file"] for record in records] == [f"{shard}::{index:06d}.jpg" for index in range(3)]
    assert all(record["error"] is None for record in records)


def test_a_shard_that_breaks_off_is_an_error_record_after_its_pictures(fakes, shard, tmp_path):
    whole = shard.read_bytes()
    shard.write_bytes(whole[: 2 * len(whole) // 5])
    records = examined(fakes, Inputs([shard]), tmp_path / "out.jsonl")
    assert records[0]["error"] is None
    assert records[-1]["error"] is not None
    assert [record["file"] for record in records if record["error"] is None] != []
    (tmp_path / "s.tar.gz").write_bytes(b"x")
    with pytest.raises(SettingsError, match="unpack"):
        Inputs([tmp_path / "s.tar.gz"])


def test_a_shard_that_claims_more_than_memory_holds_is_error_records(fakes, tmp_path):
    header = tarfile.TarInfo("a.jpg")
    header.size = 1 << 61
    (tmp_path / "s.tar").write_bytes(header.tobuf() + bytes(2000))
    records = examined(fakes, Inputs([tmp_path / "s.tar"]), tmp_path / "out.jsonl")
    assert [record["error"]["code"] for record in records] == ["img.unreadable"] * 2


def test_a_shard_that_changed_under_the_batch_is_said(shard):
    (job, *_) = Inputs([shard])
    shard.write_bytes(b"")
    with pytest.raises(UnreadableFile):
        job.source()


def test_the_same_bytes_are_examined_once_and_reported_for_each_name(fakes, tmp_path):
    first = fakes.write(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "b.png").write_bytes(first.read_bytes())
    (tmp_path / "in" / "c.jpg").write_bytes(first.read_bytes())
    sources = [fakes.Brightness()]
    worker = Worker(fakes.make(sources=sources), with_text=False)
    out = tmp_path / "out.jsonl"
    with Ledger(out) as ledger:
        records = list(run_batch(Inputs([tmp_path / "in"]), ledger, LocalEngine(1), lambda: worker))
    assert sources[0].calls == 1
    assert [Path(record["file"]).name for record in records] == ["a.jpg", "b.png", "c.jpg"]
    assert len({json.dumps(record["probabilities"]) for record in records}) == 1
    assert "same_bytes_as" not in records[0]
    assert {record["same_bytes_as"] for record in records[1:]} == {str(first)}
    # and in a later run
    (tmp_path / "in" / "d.jpg").write_bytes(first.read_bytes())
    with Ledger(out, resume=True) as ledger:
        (late,) = run_batch(Inputs([tmp_path / "in"]), ledger, LocalEngine(1), lambda: worker)
    assert late["same_bytes_as"] == str(first)
    assert sources[0].calls == 1


def test_every_input_is_accounted_for_once(fakes, tmp_path):
    folder = tmp_path / "in"
    for index in range(18):
        fakes.write(folder / f"{index:02d}.jpg", index, width=64, height=64)
    for index in (3, 11):  # one in ten damaged
        data = (folder / f"{index:02d}.jpg").read_bytes()
        (folder / f"{index:02d}.jpg").write_bytes(data[: len(data) // 3])
    names = ["b" * 251 + ".jpg", "日本語 ünï.jpg", "line\nbreak.jpg", " lead.jpg", "=1+1.jpg", "twin.jpg"]
    for place, name in enumerate(names):
        (folder / name).write_bytes((folder / f"{place % 2:02d}.jpg").read_bytes())
    (folder / "loop").symlink_to(folder)
    (folder / "round").symlink_to(folder / "round")
    records = examined(fakes, Inputs([folder, folder / "00.jpg"]), tmp_path / "out.jsonl")
    found = sorted(os.path.relpath(record["file"], folder) for record in records)
    assert found == sorted([*(f"{index:02d}.jpg" for index in range(18)), *names, "round"])
    assert (
        sum(record["error"] is not None for record in records) == 3
    )  # the two damaged ones and the round link


def test_any_name_survives_the_trip():
    job = Job(os.fsdecode(b"caf\xe9\n\xff.jpg"), os.fsdecode(b"/x/caf\xe9"), data=b"\0\xff", sha256="0" * 64)
    assert Job.from_json(job.to_json()) == job
