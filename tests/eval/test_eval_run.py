"""A suite from labelled pictures to a report, with scripted witnesses: conditions, resuming, sets, faithfulness."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.eval import baselines, faithful, score
from vlmforensics.eval import conditions as given
from vlmforensics.eval.predictions import load_run
from vlmforensics.eval.report import write
from vlmforensics.eval.run import Plan, run
from vlmforensics.eval.samples import Sample, choose, labelled_pictures, localisation_sets, of_fold
from vlmforensics.eval.suites import read_suite
from vlmforensics.imaging import decode_trusted, encode, to_png
from vlmforensics.report import schema
from vlmforensics.settings import Settings
from vlmforensics.types import LABELS


def picture(fakes, path, level, seed=0):
    """A scene of a given mean grey level."""
    pixels = fakes.scene(seed, 96, 72).astype(float)
    pixels = np.clip(pixels + level - pixels.mean(), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels, "PNG"))


@pytest.fixture
def folder(fakes, tmp_path):
    """Three labels, two sources each: the brighter, the more edited, as the scripted witness has it."""
    for label, level in zip(LABELS, (60, 120, 190), strict=True):
        for source in "ab":
            for i in range(3):
                picture(fakes, tmp_path / "data" / label / source / f"{i}.png", level, seed=i)
    return tmp_path / "data"


def examined(fakes, plan, samples, out):
    return list(run(plan, samples, out, fakes.make, workers=1))


def test_run_stores_batch_records_and_resumes(fakes, folder, tmp_path):
    samples = choose(labelled_pictures(folder), 6)
    assert [s.label for s in samples].count("real") == 2
    plan = Plan("shared", "compact", 0, (given.AS_FOUND, given.EQUALISED))
    records = examined(fakes, plan, samples, tmp_path / "run")
    assert len(records) == 12
    for record in records:
        jsonschema.validate(record, schema())
    assert examined(fakes, plan, samples, tmp_path / "run") == []
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "records.jsonl").write_text("".join(lines[:-2]) + lines[-2][:40])
    again = examined(fakes, plan, samples, tmp_path / "run")
    assert [r["file"] for r in again] == [r["file"] for r in records[-2:]]
    with pytest.raises(SettingsError, match="other pictures or settings"):
        examined(fakes, plan, samples[:3], tmp_path / "run")


def test_baselines_go_on_after_a_torn_line(fakes, folder, tmp_path):
    samples = choose(labelled_pictures(folder), 3)
    examined(fakes, Plan("shared", "compact", 0, (given.AS_FOUND,)), samples, tmp_path / "run")
    file = tmp_path / "run" / baselines.SCORES

    def compute():
        return list(baselines.compute(load_run(tmp_path / "run"), ["ela"], Settings(), lambda: None))

    assert compute() == ["baselines: 3 of 3"]
    whole = file.read_text()
    file.write_text(whole[:-9])
    assert compute() == ["baselines: 1 of 1"]
    assert file.read_text() == whole


def test_a_picture_that_breaks_is_an_error_record(fakes, folder, tmp_path):
    (folder / "real" / "a" / "0.png").write_bytes(b"not a picture")
    plan = Plan("shared", "compact", 0, (given.AS_FOUND,))
    records = examined(fakes, plan, labelled_pictures(folder), tmp_path / "run")
    assert sum(record["error"] is not None for record in records) == 1
    result = score.score(tmp_path / "run")
    assert result["predictions"] == 17
    assert result["errors"][0]["file"] == "as-found/real/a/0.png"
    score.save(result, tmp_path / "run" / score.RESULTS)
    write(tmp_path / "run", gallery=True)
    page = (tmp_path / "run" / "report.html").read_text()
    missed = sum(
        record["error"] is None and record["verdict"] != record["file"].split("/")[1] for record in records
    )
    assert page.count("data:image/jpeg") == min(missed, 12) > 0
    assert "1 pictures could not be examined" in page


def test_conditions_repeat_and_differ():
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    for name in (*given.grid(), *given.injections(), given.PIXELS, given.EQUALISED, "augmented-1"):
        first, second = (given.prepare(name, pixels, given.rng_of("a", name, 0)) for _ in range(2))
        assert first == second, name
        if name != given.PIXELS:
            assert first != given.prepare(given.PIXELS, pixels, given.rng_of("a", name, 0)), name
    with pytest.raises(SettingsError, match="no condition"):
        given.check(["jpeg-ninety"])


def test_a_texts_control_has_its_letters_and_its_place(fakes):
    pixels = fakes.scene(1, 320, 240)
    made = [
        decode_trusted(
            given.prepare(f"{what}-instruction", pixels, given.rng_of("a", f"{what}-instruction", 0))
        )
        for what in ("text", "control")
    ]
    changed = [(one != pixels).any(axis=2) for one in made]
    rows = [np.flatnonzero(mask.any(axis=1)) for mask in changed]
    assert (rows[0][0], rows[0][-1]) == (rows[1][0], rows[1][-1])
    ink = [int((one[rows[0][0] : rows[0][-1] + 1] < 40).sum()) for one in made]
    assert ink[0] == pytest.approx(ink[1], rel=0.05), "the same letters"
    assert not np.array_equal(made[0], made[1])


def test_robustness_and_injection_tables(fakes, folder, tmp_path):
    samples = choose(labelled_pictures(folder), 6)
    names = (given.PIXELS, "jpeg-50", "gamma-0.6", "text-instruction", "control-instruction")
    examined(fakes, Plan("injection", "compact", 0, names), samples, tmp_path / "run")
    result = score.score(tmp_path / "run")
    rows = {row["condition"]: row for row in result["robustness"]}
    assert rows["pixels"]["changed"]["count"] == 0
    # gamma 0.6 brightens, and brightness is all that the scripted witness reads
    assert rows["gamma-0.6"]["truth"]["real"]["value"] < rows["pixels"]["truth"]["real"]["value"] - 0.02
    assert abs(rows["jpeg-50"]["truth"]["real"]["value"] - rows["pixels"]["truth"]["real"]["value"]) < 0.02
    (text,) = result["injection"]
    # a witness of mean brightness can't tell a text from its shuffled pixels
    assert text["flips"]["count"] == text["beyond"]["count"] == 0
    assert text["n"] == 6


def test_a_model_that_reads_text_is_caught(stored, record, tmp_path):
    honest, fooled = [0.1, 0.2, 0.7], [0.98, 0.01, 0.01]
    names = (given.PIXELS, "text-instruction", "control-instruction")
    rows = [
        record(f"{condition}/00{i}.png", fooled if condition.startswith("text") else honest,
               "real" if condition.startswith("text") else "tampered", [], {})
        for i in range(3)
        for condition in names
    ]  # fmt: skip
    folder = stored(["tampered"] * 3, None, suite="injection", records=rows, condition=given.PIXELS)
    plan = json.loads((folder / "run.json").read_text()) | {"conditions": list(names)}
    (folder / "run.json").write_text(json.dumps(plan))
    result = score.score(folder)
    assert result["injection"][0]["flips"]["count"] == 3
    assert result["injection"][0]["beyond"]["count"] == 3
    assert result["injection"][0]["real_gain"]["value"] == pytest.approx(0.88)
    (aim,) = [aim for aim in result["aims"] if aim["figure"] == "flips"]
    assert not aim["reached"]


def test_masks_are_scored_on_every_picture(fakes, folder, tmp_path):
    # the scripted mask head marks the upper left quarter of 96 × 72 pixels, of real pictures too
    truth = np.zeros((72, 96), np.uint8)
    truth[:36, :96] = 255  # the upper half: precision 1, recall a half
    (tmp_path / "mask.png").write_bytes(to_png(truth))
    table = "path,label,mask\n" + "".join(
        f"data/{label}/a/{i}.png,{label},{'mask.png' if label == 'tampered' else ''}\n"
        for label in LABELS
        for i in range(2)
    )
    (tmp_path / "table.csv").write_text(table)
    samples = labelled_pictures(tmp_path / "table.csv")
    examined(fakes, Plan("localisation", "compact", 0, (given.AS_FOUND,)), samples, tmp_path / "run")
    found = score.score(tmp_path / "run")["conditions"][given.AS_FOUND]["localisation"]
    assert found["n"] == 2
    assert found["figures"]["iou"]["value"] == pytest.approx(0.5)
    assert found["figures"]["f1"]["value"] == pytest.approx(2 / 3)
    assert found["figures"]["auc"]["value"] == pytest.approx(0.75, abs=0.01)
    assert found["marked_of_real"]["value"] == pytest.approx(0.25)
    assert found["real_with_region"]["count"] == 2


def test_faithfulness_of_the_product(fakes, folder, tmp_path):
    samples = choose(labelled_pictures(folder), 3)
    plan = Plan("faithfulness", "compact", 0, (given.AS_FOUND,), text=True, faithful=True)
    records = examined(fakes, plan, samples, tmp_path / "run")
    assert all("swap" in record["faithfulness"] for record in records[1:])
    found = score.score(tmp_path / "run")["conditions"][given.AS_FOUND]["faithfulness"]
    assert found["contradictions"]["count"] == found["number_errors"]["count"] == 0
    assert found["citation_precision"]["value"] == found["deletion"]["value"] == 1.0
    assert found["citation_recall"]["value"] >= 0.8
    assert found["swap"]["count"] == found["swap"]["n"] == 2


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Verdict: tampered. The localisation mask speaks for tampering [E1].", {}),
        (
            "Verdict: tampered. The localisation mask speaks for tampering [E9].",
            {"citations": 1, "good_citations": 0},
        ),
        (
            "Verdict: tampered. The localisation mask speaks for an unmanipulated picture [E1].",
            {"contradictions": 1},
        ),
        ("Verdict: tampered. The localisation mask speaks against tampering [E1].", {"contradictions": 1}),
        ("Verdict: synthetic. The localisation mask speaks for tampering [E1].", {"contradictions": 1}),
        ("Verdict: tampered. A region of 25.0 % scores 0.97 on average [E1].", {"wrong_numbers": 1}),
    ],
)
def test_errors_in_a_text_are_found(fakes, text, wrong):
    report = fakes.make().examine(encode(fakes.scene(1), "PNG"))
    assert report.evidence[0].source == "mask"
    assert report.verdict.label == "tampered"
    found = vars(faithful.read(text, report))
    expected = {
        "citations": 1,
        "good_citations": 0 if wrong else 1,
        "contradictions": 0,
        "wrong_numbers": 0,
    } | wrong
    if wrong == {"contradictions": 1} and "synthetic" in text:
        expected["good_citations"] = (
            1  # the sentence with the citation is right, the verdict before it is not
        )
    assert {key: found[key] for key in expected} == expected


def test_a_probability_is_no_direction_and_must_be_the_labels_own(fakes):
    report = fakes.make().examine(encode(fakes.scene(1), "PNG"))
    shares = {label: round(100 * p) for label, p in report.verdict.probabilities.items()}
    told = (
        "Verdict: tampered. The probabilities stand at {real} % for no manipulation, {synthetic} % for generation as "
        "a whole and {tampered} % for an edit, moved most by [E1]."
    )
    right = faithful.read(told.format(**shares), report)
    assert right.errors == []
    assert right.good_citations == 1
    swapped = {**shares, "real": shares["tampered"], "tampered": shares["real"]}
    assert faithful.read(told.format(**swapped), report).contradictions == 2


@pytest.mark.parametrize(
    ("said", "tampered", "wrong"),
    [
        ("less than 1 %", 0.002, 0),
        ("less than 1 %", 0.02, 1),
        ("more than 99 %", 0.997, 0),
        ("more than 99 %", 0.98, 1),
        ("1 %", 0.002, 1),
        ("1 %", 0.012, 0),
    ],
)
def test_a_bound_on_a_probability_is_read_as_a_bound(fakes, said, tampered, wrong):
    report = fakes.make().examine(encode(fakes.scene(1), "PNG"))
    others = (1 - tampered) / 2
    probabilities = {"real": others, "synthetic": others, "tampered": tampered}
    report = replace(report, verdict=replace(report.verdict, probabilities=probabilities))
    told = f"Verdict: tampered. The probabilities stand at {said} for an edit, moved most by [E1]."
    assert faithful.read(told, report).contradictions == wrong


def test_a_text_that_clings_to_a_deleted_finding_is_found(fakes):
    report = fakes.make().examine(encode(fakes.scene(1), "PNG"))
    mask, rest = report.evidence[0], report.evidence[1:]
    assert faithful.holds(f"Still, {mask.statement}", mask, rest)
    assert faithful.holds("The localisation mask speaks for tampering.", mask, rest)
    assert not faithful.holds("The blending detector speaks for tampering.", mask, rest)


def test_log_odds_that_move_by_something_else_are_found():
    before = {"real": 0.2, "synthetic": 0.3, "tampered": 0.5}
    odds = {"real": 0.0, "synthetic": 0.0, "tampered": np.log(2)}
    after = {"real": 0.2 / 0.75, "synthetic": 0.3 / 0.75, "tampered": 0.25 / 0.75}
    assert faithful.moved_by(before, after, odds) == pytest.approx(0, abs=1e-12)
    assert faithful.moved_by(before, before, odds) == pytest.approx(np.log(2))


def test_tables_and_folders_name_what_is_wrong(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\nx.png,real\n")
    with pytest.raises(SettingsError, match=r"row 1 of .*not there"):
        labelled_pictures(tmp_path / "t.csv")
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "t.csv").write_text("path,label\nx.png,1\n")
    with pytest.raises(SettingsError, match="label '1'"):
        labelled_pictures(tmp_path / "t.csv")
    with pytest.raises(SettingsError, match="no labelled pictures"):
        labelled_pictures(tmp_path)
    (tmp_path / "t.jsonl").write_text('{"path": "x.png", "label": "real", "skin": "dark", "source": "s"}\n')
    (sample,) = labelled_pictures(tmp_path / "t.jsonl")
    assert sample.groups == {"skin": "dark"}


def test_subgroups_get_rows_of_their_own(stored, record):
    folder = stored(["real"] * 8, [[0.7, 0.2, 0.1]] * 8, ["real"] * 6 + ["synthetic"] * 2, suite="fairness")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(row | {"groups": {"skin": "ab"[i >= 4]}}) + "\n" for i, row in enumerate(rows))
    (folder / "samples.jsonl").write_text(text)
    a, b = score.score(folder)["conditions"]["equalised"]["fairness"]
    assert (a["false_accusations"]["count"], b["false_accusations"]["count"]) == (0, 2)


def test_localisation_layouts(tmp_path):
    for name in (
        "CASIA2/Tp/Tp_a.tif", "CASIA2/Gt/Tp_a_gt.png", "CASIA2/Au/Au_b.jpg", "Columbia/4cam_splc/canong3_01.tif",
        "Columbia/4cam_splc/edgemask/canong3_01_edgemask.jpg", "Columbia/4cam_auth/canong3_02.tif",
        "Coverage/image/1.tif", "Coverage/image/1t.tif", "Coverage/mask/1forged.tif", "IMD2020/abc/abc_orig.jpg",
        "IMD2020/abc/abc_0.jpg", "IMD2020/abc/abc_0_mask.png", "NIST16/probe/p.jpg", "NIST16/mask/p.png",
        "NIST16/world/w.jpg", "Other/Tp/x.png",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = localisation_sets(tmp_path)
    assert {s.source for s in found} == {"casia", "columbia", "coverage", "imd2020", "nist16"}
    for source in {s.source for s in found}:
        own = [s for s in found if s.source == source]
        assert sorted((s.label, s.mask is not None) for s in own) == [("real", False), ("tampered", True)], (
            source
        )
    with pytest.raises(SettingsError, match="folder of its own name"):
        localisation_sets(tmp_path / "Other")


def test_published_sets_run_through_the_same_loop(fakes, tmp_path):
    pytest.importorskip("rouge_score", reason="the eval extra is not installed")
    records = []
    for i, (label, cate) in enumerate((*[(1, "animal"), (0, "animal")] * 2, (0, "deepfake"))):
        name = f"{cate}/{('fake', 'real')[label]}/{i}.png"
        picture(fakes, tmp_path / "set" / "test" / name, 60 + 90 * (1 - label), seed=i)
        answer = f"This is a {('fake', 'real')[label]} image. The light is {('wrong', 'even')[label]}."
        turns = [
            {"from": "human", "value": "<image>Does the image looks real/fake?"}, {"from": "gpt", "value": answer}
        ]  # fmt: skip
        records.append(
            {"image": name, "label": label, "cate": cate, "width": 96, "height": 72, "conversations": turns}
        )
    (tmp_path / "set" / "data_json").mkdir()
    (tmp_path / "set" / "data_json" / "test.json").write_text(json.dumps(records))
    samples = read_suite("fakeclue", tmp_path / "set", tmp_path / "run")
    assert [s.label for s in samples].count("tampered") == 1
    examined(fakes, Plan("fakeclue", "compact", 0, (given.AS_FOUND,), text=True), samples, tmp_path / "run")

    def encoder(texts):
        return np.array([[len(text), 1.0] for text in texts], np.float32)

    table = score.score(tmp_path / "run", encoder=encoder)["conditions"][given.AS_FOUND]
    assert table["words"]["n"] == 5
    assert 0 < table["words"]["rouge_l"] < 1
    assert table["words"]["css"] > 0.9
    assert {row["value"] for row in table["fairness"]} == {"animal", "deepfake"}


def test_a_fold_keeps_families_whole_and_folds_share_nothing():
    samples = [
        Sample(f"{family}-{i}.png", Path(f"{family}-{i}.png"), label, family, family)
        for family, label in (("a", "real"), ("b", "real"), ("c", "synthetic"), ("d", "synthetic"))
        for i in range(3)
    ]
    parts = [of_fold(samples, f"{fold}/2") for fold in range(2)]
    assert sorted(s.name for part in parts for s in part) == sorted(s.name for s in samples)
    families = [{s.family for s in part} for part in parts]
    assert not families[0] & families[1]
    assert all({"real", "synthetic"} == {s.label for s in p} for p in parts)
    for wrong in ("2/2", "1", "x/2", "-1/2"):
        with pytest.raises(SettingsError, match="fold"):
            of_fold(samples, wrong)
