"""The batch tab: archives that can't do harm, progress in words, the same records as the command line."""

from __future__ import annotations

import json
import struct
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest

pytest.importorskip("gradio", reason="the ui extra is not installed")

from vlmforensics.batch import Job
from vlmforensics.report import schema
from vlmforensics.settings import Settings
from vlmforensics.ui.archive import Limits, collect
from vlmforensics.ui.batches import Batch, BatchTab, duration, progress, remaining, table, written
from vlmforensics.ui.flow import Model
from vlmforensics.ui.layout import Labels
from vlmforensics.ui.state import Sessions
from vlmforensics.ui.uploads import Upload

NEWS = b"no picture at all, whatever it is called"


def archive(path, files, **options):
    with zipfile.ZipFile(path, "w", **options) as target:
        for name, data in files:
            target.writestr(name, data)
    return Upload(path, path.name)


def test_files_and_archives_become_jobs_and_no_name_becomes_a_path(tmp_path, pictures, picture_bytes):
    names = [
        "a.jpg",
        "../../escape.jpg",
        "/etc/absolute.jpg",
        "folder/",
        "__MACOSX/._a.jpg",
        ".hidden",
        "in\\win.jpg",
    ]
    packed = archive(
        tmp_path / "many.zip", [(name, picture_bytes if name[-1] != "/" else b"") for name in names]
    )
    plain = Upload(pictures("a.jpg"), "a.jpg")
    folder = tmp_path / "out"
    folder.mkdir()
    jobs, left_out = collect([plain, plain, packed], folder, Limits())
    assert left_out == []
    assert [job.file for job in jobs] == [
        "a.jpg", "a.jpg (2)", "many.zip/a.jpg", "many.zip/../../escape.jpg", "many.zip//etc/absolute.jpg",
        "many.zip/in/win.jpg" if jobs[-1].file.endswith("in/win.jpg") else "many.zip/in\\win.jpg",
    ]  # fmt: skip
    assert [path.name for path in sorted(folder.iterdir())] == [f"{number:05d}" for number in range(6)]
    plain.path.unlink()  # as gradio does with uploads after an hour
    assert [job.path for job in jobs] == [str(path) for path in sorted(folder.iterdir())]
    assert all(path.read_bytes() == picture_bytes for path in folder.iterdir())


def test_uploads_of_another_disk_are_copied(tmp_path, pictures, picture_bytes, monkeypatch):
    def link(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("vlmforensics.ui.archive.os.link", link)
    upload = Upload(pictures("a.jpg"), "a.jpg")
    folder = tmp_path / "out"
    folder.mkdir()
    jobs, _ = collect([upload], folder, Limits())
    upload.path.unlink()
    assert Path(jobs[0].path).read_bytes() == picture_bytes


def test_bombs_are_left_out_and_named(tmp_path, picture_bytes):
    folder = tmp_path / "out"
    folder.mkdir()
    bomb = archive(
        tmp_path / "bomb.zip",
        [("zeros", bytes(3_000_000)), ("a.jpg", picture_bytes)],
        compression=zipfile.ZIP_DEFLATED,
    )
    jobs, left_out = collect([bomb], folder, Limits(entry=1 << 20))
    assert [job.file for job in jobs] == ["bomb.zip/a.jpg"]
    assert "zeros: left out, it unpacks to more than 1 MB" in left_out[0]
    _, left_out = collect([bomb], folder, Limits(total=1 << 20))
    assert "together are larger" in left_out[0]
    _, left_out = collect([bomb], folder, Limits(directory=40))
    assert "lists too many files" in left_out[0]
    jobs, left_out = collect([bomb, bomb], folder, Limits(files=1))
    assert len(jobs) == 1
    assert all("takes 1 pictures" in sentence for sentence in left_out)


def test_a_header_that_lies_about_the_size_does_not_help(tmp_path):
    packed = archive(tmp_path / "liar.zip", [("zeros", bytes(3_000_000))], compression=zipfile.ZIP_DEFLATED)
    data = packed.path.read_bytes().replace(struct.pack("<I", 3_000_000), struct.pack("<I", 1000))
    packed.path.write_bytes(data)
    folder = tmp_path / "out"
    folder.mkdir()
    jobs, left_out = collect([packed], folder, Limits(entry=1 << 20))
    assert jobs == []
    assert len(left_out) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("cut", [10, 60, 200])
def test_damaged_archives_are_named(tmp_path, picture_bytes, cut):
    packed = archive(tmp_path / "cut.zip", [("a.jpg", picture_bytes)])
    packed.path.write_bytes(packed.path.read_bytes()[:-cut])
    jobs, left_out = collect([packed], tmp_path, Limits())
    assert jobs == []
    assert "damaged" in left_out[0]


def test_a_picture_with_an_archive_at_its_end_is_a_picture(tmp_path, picture_bytes):
    packed = archive(tmp_path / "end.zip", [("b.jpg", picture_bytes)])
    both = tmp_path / "both.jpg"
    both.write_bytes(picture_bytes + packed.path.read_bytes())
    jobs, _ = collect([Upload(both, "both.jpg")], tmp_path, Limits())
    assert [job.file for job in jobs] == ["both.jpg"]


@pytest.fixture
def tab(fake_assistant):
    import gradio as gr

    settings = Settings()
    sessions = Sessions()
    assistant = fake_assistant(settings)
    made = BatchTab(Model(lambda: assistant).start(), sessions, settings)
    with gr.Blocks():
        made.place(Labels())
    yield SimpleNamespace(tab=made, sessions=sessions, request=SimpleNamespace(session_hash="anna"))
    sessions.clear()


def test_a_run_gives_every_picture_one_record_and_all_files(tab, pictures, tmp_path):
    data = pictures("x.jpg").read_bytes()
    names = ("splice.jpg", "render.jpg")
    # told apart by a byte after the end: what has the same bytes is examined once
    uploads = [Upload(pictures(name, data + name.encode()), name) for name in names]
    uploads.append(Upload(pictures("text.jpg", NEWS), "text.jpg"))
    *_, last = tab.tab.run(uploads, True, tab.request)
    batch = tab.sessions.get("anna").batch
    assert [record["verdict"] for record in batch.records] == ["tampered", "synthetic", None]
    for record in batch.records:
        jsonschema.validate(record, schema())
    assert batch.records[0]["explanation"]
    assert "1 could not be examined" in last[tab.tab.progress]
    assert "Not examined" in last[tab.tab.table]
    lines = written(batch, "jsonl", Settings()).read_text(encoding="ascii").splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["splice.jpg", "render.jpg", "text.jpg"]
    assert written(batch, "csv", Settings()).read_text(encoding="utf-8-sig").count("splice.jpg") == 1
    assert written(batch, "parquet", Settings()).read_bytes()[:4] == b"PAR1"
    with zipfile.ZipFile(written(batch, "html", Settings())) as pages:
        assert "index.html" in pages.namelist()
    opened = tab.tab.upload(1, tab.request)
    assert opened.name == "render.jpg"
    assert tab.tab.upload(1, SimpleNamespace(session_hash="bert")) is None


def test_cancelling_keeps_what_is_finished(tab, pictures):
    data = pictures("x.jpg").read_bytes()
    uploads = [Upload(pictures(f"{n}.jpg", data + bytes([n])), f"{n}.jpg") for n in range(9)]
    tab.tab.model.wait().stage_seconds = 0.03
    run = tab.tab.run(uploads, False, tab.request)
    next(run)
    next(run)
    tab.tab.stop(tab.request)
    *_, last = run
    batch = tab.sessions.get("anna").batch
    assert 1 <= len(batch.records) < 9
    assert "cancelled" in last[tab.tab.progress]


def test_a_tab_that_goes_ends_its_batch(tab, pictures):
    run = tab.tab.run([Upload(pictures("a.jpg"), "a.jpg")], False, tab.request)
    next(run)
    batch = tab.sessions.get("anna").batch
    tab.sessions.left("anna")
    assert batch.stop.is_set()
    run.close()
    assert batch.ended


def test_a_batch_does_not_take_a_closed_tab_for_open(tab, pictures):
    data = pictures("x.jpg").read_bytes()
    uploads = [Upload(pictures(f"{n}.jpg", data + bytes([n])), f"{n}.jpg") for n in range(3)]
    run = tab.tab.run(uploads, False, tab.request)
    next(run)
    tab.sessions.left("anna")
    list(run)
    assert tab.sessions.known("anna").closed is not None


def test_the_time_left_follows_the_pace(tmp_path):
    batch = Batch([Job(str(n), "") for n in range(10)], [], tmp_path / "r", started=100.0)
    assert remaining(batch, 120.0) is None
    batch.records = [{}] * 4
    assert remaining(batch, 120.0) == pytest.approx(30.0)
    assert (duration(0.2), duration(89), duration(150), duration(7500)) == (
        "1 s",
        "89 s",
        "2 min",
        "2 h 5 min",
    )


def test_names_stay_text(tmp_path):
    hostile = '"><script>alert(1)</script>'
    record = {
        "file": hostile,
        "verdict": None,
        "probabilities": None,
        "error": {"message": hostile},
        "timing": {},
    }
    batch = Batch([Job(hostile, "")], [hostile], tmp_path / "r", records=[record], started=time.monotonic())
    for html in (table([record]), progress(batch)):
        assert "<script" not in html
