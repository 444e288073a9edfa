import hashlib
import json

import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.hints import kept_hints, prompt_of
from vlmforensics.finetune.samples import (
    FAKECLUE_QUESTION,
    Sample,
    export_fakeclue,
    import_fakeclue,
    line_of,
    read_samples,
    write_samples,
)


@pytest.fixture
def sample(fakes, tmp_path):
    picture = fakes.write(tmp_path / "set" / "fake" / "a.png", width=80, height=60)
    return Sample(
        image=picture,
        sha256=hashlib.sha256(picture.read_bytes()).hexdigest(),
        label="synthetic",
        source="set",
        category="animal",
        hints=("The blending detector gives 0.12 out of 1.", "The up-sampling score is 3.1."),
        answer="This picture is synthetic. The fur melts into the grass.",
        clues=({"id": "fur-melts", "answer": True, "by": "a, b"},),
    )


def test_lines_survive_and_paths_are_relative_inside_the_folder(sample, tmp_path):
    other = sample.model_copy(update={"answer": "Überall «Spuren»\nin zwei Zeilen."})
    assert write_samples(tmp_path / "train.jsonl", [sample, other]) == 2
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["image"] for line in lines] == ["set/fake/a.png"] * 2
    assert list(read_samples(tmp_path / "train.jsonl")) == [sample, other]
    (tmp_path / "elsewhere").mkdir()
    assert json.loads(line_of(sample, tmp_path / "elsewhere"))["image"] == str(sample.image)


def test_contract_of_a_line(sample, tmp_path):
    record = json.loads(line_of(sample, tmp_path))
    assert record == {
        "image": "set/fake/a.png", "sha256": sample.sha256, "label": "synthetic", "source": "set",
        "category": "animal", "mask": None, "prompt": sample.prompt, "hints": list(sample.hints),
        "answer": sample.answer, "clues": [{"id": "fur-melts", "answer": True, "by": "a, b"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": "fake"}, "label"),
        ({"sha256": "0"}, "sha256"),
        ({"answer": ""}, "answer"),
        ({"prompt": "<image>\nIs it real?"}, "image token"),
        ({"mask": "m.png", "label": "real"}, "no mask"),
        ({"extra": 1}, "extra"),
        ({"boxes": [[3, 0, 3, 4]]}, "box"),
        ({"clues": [{"id": "a", "answer": True, "by": "x"}, {"id": "a", "answer": False, "by": "y"}]}, "twice"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(sample, tmp_path, change, says):
    good = line_of(sample, tmp_path)
    (tmp_path / "bad.jsonl").write_text(
        f"{good}\n\n{json.dumps(json.loads(good) | change)}\n", encoding="utf-8"
    )
    reading = read_samples(tmp_path / "bad.jsonl")
    next(reading)
    with pytest.raises(SettingsError, match=rf"bad\.jsonl, line 3: .*{says}"):
        next(reading)


def test_missing_file_is_an_error_of_ours(tmp_path):
    with pytest.raises(SettingsError, match=r"nothing\.jsonl"):
        list(read_samples(tmp_path / "nothing.jsonl"))


def test_a_failed_write_leaves_the_old_file(sample, tmp_path):
    target = tmp_path / "train.jsonl"
    write_samples(target, [sample])
    before = target.read_bytes()

    def broken():
        yield sample
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError):
        write_samples(target, broken())
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["train.jsonl"]


def test_fakeclue_round_trip(sample, tmp_path):
    assert export_fakeclue(tmp_path / "train.json", [sample], tmp_path) == 1
    (record,) = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    assert record == {
        "image": "set/fake/a.png", "label": 0, "cate": "animal", "width": 80, "height": 60,
        "conversations": [
            {"from": "human", "value": FAKECLUE_QUESTION}, {"from": "gpt", "value": sample.answer},
        ],
    }  # fmt: skip
    (back,) = import_fakeclue(tmp_path / "train.json", tmp_path)
    assert (back.label, back.category, back.answer, back.sha256) == (
        "synthetic", "animal", sample.answer, sample.sha256,
    )  # fmt: skip
    assert back.prompt == "Does the image looks real/fake?"


@pytest.mark.parametrize(
    ("label", "cate", "ours"),
    [(1, "deepfake", "real"), (0, "deepfake", "tampered"), (0, "satellite", "synthetic"), (1, "doc", "real")],
)
def test_fakeclue_polarity_goes_by_the_field_not_the_text(fakes, tmp_path, label, cate, ours):
    fakes.write(tmp_path / "x.jpg")
    turns = [{"from": "human", "value": FAKECLUE_QUESTION}, {"from": "gpt", "value": "This is a fake image."}]
    record = {"image": "x.jpg", "label": label, "cate": cate, "width": 1, "height": 1, "conversations": turns}
    (tmp_path / "test.json").write_text(json.dumps([record]))
    assert [s.label for s in import_fakeclue(tmp_path / "test.json", tmp_path)] == [ours]


def test_export_refuses_pictures_outside(sample, tmp_path):
    (tmp_path / "inner").mkdir()
    with pytest.raises(SettingsError, match="does not lie below"):
        export_fakeclue(tmp_path / "train.json", [sample], tmp_path / "inner")


def test_hints_drop_out_by_seed_and_epoch():
    hints = tuple(f"Detector {n} gives 0.{n}." for n in range(10))
    assert kept_hints(hints, 0.0, key="k") == hints
    assert kept_hints(hints, 1.0, key="k") == ()
    kept = [kept_hints(hints, 0.3, key=str(n), seed=1) for n in range(400)]
    assert kept == [kept_hints(hints, 0.3, key=str(n), seed=1) for n in range(400)]
    assert kept != [kept_hints(hints, 0.3, key=str(n), seed=1, epoch=1) for n in range(400)]
    assert kept != [kept_hints(hints, 0.3, key=str(n), seed=2) for n in range(400)]
    assert 0.66 < sum(map(len, kept)) / 4000 < 0.74
    assert all(list(some) == sorted(some) for some in kept)
    with pytest.raises(SettingsError, match="probability"):
        kept_hints(hints, 1.5, key="k")


def test_prompt_in_training_is_worded_as_in_use(sample):
    from vlmforensics.vlm.prompts import question_with

    assert prompt_of(sample) == question_with(sample.hints)
    assert prompt_of(sample, 1.0) == question_with(())
