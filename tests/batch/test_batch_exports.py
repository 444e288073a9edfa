"""Galleries, masks, conversations, run summaries, and words for the most suspect."""

import base64
import json
import os
from pathlib import Path

import numpy as np
import pytest

from vlmforensics.batch import (
    Inputs,
    Ledger,
    LocalEngine,
    Summary,
    Worker,
    explain_most_suspect,
    run_batch,
    write_conversations,
    write_gallery,
    write_masks,
    write_table,
)
from vlmforensics.errors import SettingsError
from vlmforensics.imaging import open_case, rle_decode
from vlmforensics.settings import Settings

SETTINGS = Settings(sandbox=False)


@pytest.fixture
def batch(fakes, tmp_path):
    """A batch file over four pictures and a text, with its inputs."""
    folder = tmp_path / "in"
    for index in range(4):
        fakes.write(folder / f"{index}.jpg", index)
    (folder / "<b>&.jpg").write_text("nothing")
    out = tmp_path / "out.jsonl"
    worker = Worker(fakes.make(), text="none")
    inputs = Inputs([folder])
    summary = Summary({"text": "none"})
    with Ledger(out) as ledger:
        for record in run_batch(inputs, ledger, LocalEngine(1), lambda: worker):
            summary.add(record)
    return inputs, out, summary


def read(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_gallery_escapes_links_and_sorts(batch, tmp_path):
    inputs, out, _ = batch
    folder = tmp_path / "gallery"
    assert write_gallery(out, folder, inputs, SETTINGS) == 5
    page = (folder / "index.html").read_text()
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "<script" not in page
    for record in read(out):
        assert page.count(Path(record["file"]).name.replace("<b>&", "&lt;b&gt;&amp;")) >= 1
    order = sorted((r for r in read(out) if not r["error"]), key=lambda r: r["probabilities"]["real"])
    places = [page.index(f'class="name">{record["file"]}') for record in order]
    assert places == sorted(places)
    assert len(list((folder / "pictures").glob("*.html"))) == 4
    assert len(list((folder / "thumbs").glob("*.jpg"))) == 4
    assert 'href="pictures/000000.html"' in page


def test_gallery_keeps_the_most_suspect_and_does_without_lost_pictures(batch, tmp_path):
    _, out, _ = batch
    assert write_gallery(out, tmp_path / "g", [], SETTINGS, most=2) == 2
    page = (tmp_path / "g" / "index.html").read_text()
    assert "The 2 most suspect of 5" in page
    assert "no picture" in page


def test_gallery_shows_the_newer_record_of_a_file_that_changed(batch, fakes, tmp_path):
    inputs, out, _ = batch
    fakes.write(tmp_path / "in" / "2.jpg", 7)
    worker = Worker(fakes.make(), text="none")
    with Ledger(out, resume=True) as ledger:
        (newer,) = run_batch(inputs, ledger, LocalEngine(1), lambda: worker)
    assert write_gallery(out, tmp_path / "g", inputs, SETTINGS) == 6
    (page,) = [
        path for path in (tmp_path / "g" / "pictures").iterdir() if newer["sha256"] in path.read_text()
    ]
    assert "data:image/png" in page.read_text()
    assert (tmp_path / "g" / "thumbs" / f"{page.stem}.jpg").exists()
    assert len(list((tmp_path / "g" / "thumbs").iterdir())) == 4


def test_pictures_with_the_same_label_keep_their_cards_and_words(fakes, tmp_path):
    data = [fakes.encode(fakes.scene(seed)) for seed in range(3)]
    rows = [json.dumps({"id": "cat", "bytes": base64.b64encode(d).decode()}) for d in data]
    (tmp_path / "cats.jsonl").write_text("\n".join(rows))
    inputs, out = Inputs([tmp_path / "cats.jsonl"]), tmp_path / "out.jsonl"
    with Ledger(out) as ledger:
        silent, telling = (Worker(fakes.make(), text=text) for text in ("none", "all"))
        assert len(list(run_batch(inputs, ledger, LocalEngine(2), lambda: silent))) == 3
        assert len(list(explain_most_suspect(inputs, ledger, LocalEngine(2), lambda: telling, 2))) == 2
    assert sum(record["explanation"] is not None for record in read(out)) == 2
    assert write_gallery(out, tmp_path / "g", inputs, SETTINGS) == 3
    assert len(list((tmp_path / "g" / "thumbs").iterdir())) == 3


def test_files_written_follow_the_umask(batch, tmp_path):
    inputs, out, _ = batch
    before = os.umask(0o027)
    try:
        write_masks(out, tmp_path / "masks")
        write_conversations(out, tmp_path / "c.json")
        write_table(out, tmp_path / "t.parquet")
        write_gallery(out, tmp_path / "g", inputs, SETTINGS)
    finally:
        os.umask(before)
    written = [*(tmp_path / "masks").iterdir(), *(tmp_path / "g").glob("**/*.*")]
    modes = {path.stat().st_mode & 0o777 for path in (*written, tmp_path / "c.json", tmp_path / "t.parquet")}
    assert modes == {0o640}


def test_masks_are_those_of_the_records(batch, tmp_path):
    _, out, _ = batch
    count = write_masks(out, tmp_path / "masks")
    masked = [record for record in read(out) if record["mask"] and rle_decode(record["mask"]).any()]
    assert count == len(masked) > 0
    for record in masked:
        image = open_case(tmp_path / "masks" / f"{record['sha256']}.png", settings=SETTINGS).upright
        assert np.array_equal(image[..., 0] > 127, rle_decode(record["mask"]))


def test_conversations_are_fakeclue(batch, fakes, tmp_path):
    inputs, out, _ = batch
    worker = Worker(fakes.make(), text="all")
    with Ledger(tmp_path / "told.jsonl") as ledger:
        records = list(run_batch(inputs, ledger, LocalEngine(1), lambda: worker))
    target = tmp_path / "c.json"
    decided = [r for r in records if r["verdict"] in {"real", "synthetic", "tampered"}]
    assert write_conversations(tmp_path / "told.jsonl", target) == len(decided)
    rows = json.loads(target.read_text())
    assert len(rows) == len(decided) > 0
    for row, record in zip(rows, decided, strict=True):
        assert row["label"] == (record["verdict"] == "real")
        human, gpt = row["conversations"]
        assert human == {"from": "human", "value": "<image>Does the image looks real/fake?"}
        assert gpt["value"].startswith("This is a ")
        assert "[E" not in gpt["value"]
    assert write_conversations(out, target) == 0  # nothing explained, nothing to learn
    assert json.loads(target.read_text()) == []


def test_words_for_the_most_suspect_only(batch, fakes):
    inputs, out, _ = batch
    worker = Worker(fakes.make(), text="all")
    before = read(out)
    with Ledger(out, resume=True) as ledger:
        told = list(explain_most_suspect(inputs, ledger, LocalEngine(1), lambda: worker, 2))
        assert list(explain_most_suspect(inputs, ledger, LocalEngine(1), lambda: worker, 2)) == []
        assert list(run_batch(inputs, ledger, LocalEngine(1), lambda: worker)) == []
    after = read(out)
    chances = sorted(r["probabilities"]["real"] for r in before if r["probabilities"])
    silent = [r for r in after if r["explanation"] is None]
    assert len(told) == 2
    assert len(silent) == 3
    assert all(r["probabilities"]["real"] <= chances[1] for r in after if r["explanation"])
    strip = {"explanation": None, "explanation_check": None, "timing": None}
    assert [r | strip for r in after] == [r | strip for r in before]


def test_flagged_explains_where_manipulation_is_likelier(fakes, tmp_path):
    paths = [fakes.write(tmp_path / f"{i}.jpg", i) for i in range(2)]
    for chances, told in (((0.98, 0.01, 0.01), 0), ((0.01, 0.01, 0.98), 2)):
        backbone = fakes.Backbone(chances)
        worker = Worker(fakes.make(backbone=backbone, sources=[], blending=None, masks=None), text="flagged")
        with Ledger(tmp_path / f"{told}.jsonl") as ledger:
            records = list(run_batch(Inputs(paths), ledger, LocalEngine(1), lambda w=worker: w))
        assert sum(record["explanation"] is not None for record in records) == told
    with pytest.raises(SettingsError, match="top-K"):
        Worker(fakes.make(), text="some")


def test_the_summary_counts_what_happened(batch, tmp_path):
    _, out, summary = batch
    said = summary.to_json(records=5, failed=1, stopped=False)
    assert said["counts"]["examined"] == 5
    assert said["counts"]["failed"] == 1
    assert said["errors"]["img.text"]["count"] == 1
    assert said["model"]["name"] == "compact"
    assert said["parameters"] == {"text": "none"}
    assert sum(said["counts"]["by_verdict"].values()) == 5
    assert json.loads(summary.write(out, records=5, failed=1, stopped=False).read_text())["finished"] is True
    assert (tmp_path / "out.run.json").exists()
