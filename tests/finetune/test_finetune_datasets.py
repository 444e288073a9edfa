"""Each loader on a tiny folder in the exact layout in which the set is published."""

import io
import json
from collections import Counter

import pytest

from vlmforensics.errors import SettingsError
from vlmforensics.finetune.datasets import DATASETS, load_dataset, to_samples
from vlmforensics.finetune.samples import read_samples, write_samples
from vlmforensics.imaging import decode_trusted, to_png


@pytest.fixture
def put(fakes, tmp_path):
    """Write a small picture below the set's folder."""
    seeds = iter(range(1000))

    def write(path):
        return fakes.write(tmp_path / path, next(seeds), width=32, height=24)

    return write


def dump(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding=encoding)


def counts(name, root, split):
    return Counter(found.label for found in load_dataset(name, root, split))


# ---------------------------------------------------------------- FakeClue


def fakeclue_record(image, label, cate, answer):
    turns = [
        {"from": "human", "value": "<image>Does the image looks real/fake?"},
        {"from": "gpt", "value": answer},
    ]
    return {"image": image, "label": label, "cate": cate, "width": 32, "height": 24, "conversations": turns}


@pytest.mark.parametrize("inner", ["test/test", "test", "."])
def test_fakeclue(put, tmp_path, inner):
    swap = "ff++/fake/Deepfakes/c23/frames/071_054/160.png"
    dump(
        tmp_path / "data_json" / "test.json",
        [
            fakeclue_record(swap, 0, "deepfake", "This is a fake image. The jaw has a seam."),
            fakeclue_record("chameleon/fake/1.jpg", 0, "human", "The image looks fake. Two left hands."),
            fakeclue_record("satellite/real/2.jpg", 1, "satellite", "This is a fake image."),
        ],
    )
    for name in (swap, "chameleon/fake/1.jpg", "satellite/real/2.jpg"):
        put(f"{inner}/{name}")
    first, second, third = load_dataset("fakeclue", tmp_path, "test")
    assert (first.label, first.source, first.category) == ("tampered", "fakeclue/ff++", "deepfake")
    assert first.question == "Does the image looks real/fake?"
    assert first.references == ("This is a fake image. The jaw has a seam.",)
    assert second.label == "synthetic"
    assert third.label == "real"  # the field, not the text


def test_fakeclue_names_a_missing_picture_and_split(tmp_path):
    dump(tmp_path / "data_json" / "test.json", [fakeclue_record("doc/fake/1.png", 0, "doc", "Fake.")])
    with pytest.raises(SettingsError, match=r"doc/fake/1\.png .*unpack test\.zip"):
        list(load_dataset("fakeclue", tmp_path, "test"))
    with pytest.raises(SettingsError, match="splits train, test"):
        list(load_dataset("fakeclue", tmp_path, "val"))


# ---------------------------------------------------------------- SID-Set


def test_sid_set_folders(put, tmp_path):
    for name in ("real/a.jpg", "full_synthetic/b.png", "tampered/c.png", "masks/c_mask.png"):
        put(f"train/{name}")
    dump(tmp_path / "train" / "description" / "tampered_GT.json", {"c.png": "Type: object. <edges> A halo."})
    found = {item.name: item for item in load_dataset("sid-set", tmp_path, "train")}
    assert {name: item.label for name, item in found.items()} == {
        "real/a.jpg": "real", "full_synthetic/b.png": "synthetic", "tampered/c.png": "tampered",
    }  # fmt: skip
    assert found["tampered/c.png"].mask == tmp_path / "train" / "masks" / "c_mask.png"
    assert found["tampered/c.png"].references == ("The image is tampered. Type: object. <edges> A halo.",)
    assert found["tampered/c.png"].question.endswith("and answer why.")
    assert found["real/a.jpg"].references == ("The image is real.",)
    assert found["real/a.jpg"].mask is None


def test_sid_set_folder_without_a_mask_is_refused(put, tmp_path):
    for name in ("real/a.jpg", "full_synthetic/b.png", "tampered/c.png"):
        put(f"train/{name}")
    with pytest.raises(SettingsError, match="has no mask"):
        list(load_dataset("sid-set", tmp_path, "train"))


def shard(path, fakes, labels):
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = to_png(fakes.scene(3, 32, 24))
    rows = [
        {
            "img_id": f"tampered_{n}", "image": {"bytes": picture, "path": f"{n}.png"},
            "mask": {"bytes": picture, "path": None} if label == 2 else None,
            "width": 32, "height": 24, "label": label,
        }
        for n, label in enumerate(labels)
    ]  # fmt: skip
    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("img_id", pa.string()), ("image", file), ("mask", file), ("width", pa.int64()),
         ("height", pa.int64()), ("label", pa.int64())]
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def test_sid_set_parquet(fakes, tmp_path):
    shard(tmp_path / "data" / "train-00000-of-00249.parquet", fakes, [0, 1])
    shard(tmp_path / "data" / "train-00001-of-00249.parquet", fakes, [2])
    shard(tmp_path / "data" / "validation-00000-of-00034.parquet", fakes, [0])
    found = list(load_dataset("sid-set", tmp_path, "train"))
    assert [item.label for item in found] == ["real", "synthetic", "tampered"]
    assert [item.mask is None for item in found] == [True, True, False]
    assert decode_trusted(found[2].image).shape == (24, 32, 3)
    assert len(list(load_dataset("sid-set", tmp_path, "validation"))) == 1
    samples = list(to_samples(found, tmp_path / "store"))
    assert len({sample.image for sample in samples}) == 1  # equal bytes are one file, named by digest
    assert samples[0].image.name == f"{samples[0].sha256}.png"
    write_samples(tmp_path / "train.jsonl", samples)
    assert list(read_samples(tmp_path / "train.jsonl")) == samples


@pytest.mark.parametrize(("label", "says"), [(3, "columns"), (-1, "label or picture")])
def test_sid_set_parquet_with_an_unknown_label(fakes, tmp_path, label, says):
    shard(tmp_path / "train-00000-of-00001.parquet", fakes, [label])
    with pytest.raises(SettingsError, match=says):
        list(load_dataset("sid-set", tmp_path, "train"))


def test_sid_set_broken_shard(tmp_path):
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(SettingsError, match=r"can't read .*parquet"):
        list(load_dataset("sid-set", tmp_path, "train"))


# ---------------------------------------------------------------- LOKI


def loki_record(image, truth, asked, answer, category="animals"):
    return {
        "image_path": image, "question": f"<image>\nYou have been shown one image. Is it {asked}?\n",
        "answer": answer, "metric": "open-ended", "modality": "image-text",
        "question_type": f"image_tf_image_{truth}_ask_{asked}_{category}", "choices": [], "id": "x",
    }  # fmt: skip


def test_loki_true_or_false(put, tmp_path):
    put("media_data/image/a.jpg")
    put("media_data/image/b.jpg")
    a, b = "media_data/image/a.jpg", "media_data/image/b.jpg"
    dump(
        tmp_path / "data_json/image/true_or_false.json",
        [
            loki_record(a, "real", "real", "Yes"), loki_record(a, "real", "fake", "No"),
            loki_record(b, "fake", "real", "No", "sence"), loki_record(b, "fake", "fake", "Yes", "person"),
        ],
    )  # fmt: skip
    found = list(load_dataset("loki", tmp_path, "true_or_false"))
    assert [item.label for item in found] == ["real", "real", "synthetic", "synthetic"]
    assert [item.references for item in found] == [("Yes",), ("No",), ("No",), ("Yes",)]
    assert [item.category for item in found] == ["animal", "animal", "scene", "human"]
    assert "<image>" not in found[0].question


def test_loki_refuses_an_answer_against_its_type(put, tmp_path):
    put("media_data/image/a.jpg")
    dump(
        tmp_path / "data_json/image/true_or_false.json",
        [loki_record("media_data/image/a.jpg", "real", "fake", "Yes")],
    )
    with pytest.raises(SettingsError, match="contradicts"):
        list(load_dataset("loki", tmp_path, "true_or_false"))


def test_loki_open_ended_is_utf_16_with_boxes(put, tmp_path):
    put("media_data/image/b.jpg")
    problems = {
        "global": [{"desc": "Everything glows"}],
        "regional": [{"region": [3, 4, 10.4, 6], "desc": "The left eye has no pupil."}],
    }
    dump(
        tmp_path / "data_json/image/open_ended_vqa.json",
        [{"image_path": "media_data/image/b.jpg", "problems": problems}],
        encoding="utf-16",
    )
    assert (tmp_path / "data_json/image/open_ended_vqa.json").read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")
    (found,) = load_dataset("loki", tmp_path, "open_ended")
    assert found.label == "synthetic"
    assert found.boxes == ((3, 4, 13, 10),)
    assert found.references == ("Everything glows. The left eye has no pupil.",)
    (sample,) = to_samples([found], tmp_path)
    assert sample.boxes == found.boxes


# ---------------------------------------------------------------- DD-VQA


def test_dd_vqa(put, tmp_path):
    asked = {
        "0": {
            "question": "Does the image looks real/fake?",
            "answer": ["The image looks fake. A seam.", "The image looks fake. Blurred."],
        },
        "10": {
            "question": "Do the person's eyes look real/fake?",
            "answer": ["The person's eyes look fake."],
        },
    }
    home = tmp_path / "DQ_FF++" / "test_set"
    dump(home / "Deepfakes" / "Deepfakes.json", {"0_071_054": asked})
    dump(home / "Original" / "Original.json", {"5_044": {"0": asked["0"]}})
    dump(home / "Neuraltexture" / "Neuraltexture.json", {"6_001_002": {"0": asked["0"]}})
    base = "FaceForensics++"
    for n in range(3):
        put(f"{base}/manipulated_sequences/Deepfakes/c23/frames/071_054/{n:03}.png")
    put(f"{base}/original_sequences/youtube/c40/frames/044/000.png")
    put(f"{base}/manipulated_sequences/NeuralTextures/raw/frames/001_002/000.png")
    found = {item.name: item for item in load_dataset("dd-vqa", tmp_path, "test")}
    assert {name: item.label for name, item in found.items()} == {
        "0_071_054/0": "tampered", "0_071_054/10": "tampered", "5_044/0": "real", "6_001_002/0": "tampered",
    }  # fmt: skip
    assert len(found["0_071_054/0"].references) == 2
    assert found["0_071_054/0"].image.name == "001.png"


def test_dd_vqa_says_that_it_has_no_pictures(tmp_path):
    dump(
        tmp_path / "DQ_FF++" / "train_set" / "Original" / "Original.json",
        {"5_044": {"0": {"question": "Real?", "answer": ["Real."]}}},
    )
    with pytest.raises(SettingsError, match="comes without pictures"):
        list(load_dataset("dd-vqa", tmp_path, "train"))


def test_dd_vqa_refuses_a_key_in_the_wrong_file(tmp_path):
    dump(tmp_path / "DQ_FF++" / "train_set" / "Original" / "Original.json", {"0_044": {}})
    with pytest.raises(SettingsError, match="0_044 does not belong"):
        list(load_dataset("dd-vqa", tmp_path, "train"))


# ---------------------------------------------------------------- GenImage


def test_genimage(put, tmp_path):
    for home in ("Midjourney", "stable_diffusion_v_1_4/imagenet_ai_0419_sdv4"):
        put(f"{home}/train/ai/1.png")
        put(f"{home}/train/nature/n01.jpg")
        put(f"{home}/val/ai/2.png")
        put(f"{home}/val/Nature/n02.jpg")
    found = list(load_dataset("genimage", tmp_path, "val"))
    assert Counter((item.source, item.label) for item in found) == {
        ("genimage/Midjourney", "real"): 1, ("genimage/Midjourney", "synthetic"): 1,
        ("genimage/stable_diffusion_v_1_4", "real"): 1, ("genimage/stable_diffusion_v_1_4", "synthetic"): 1,
    }  # fmt: skip
    assert all(("nature" in item.name.lower()) == (item.label == "real") for item in found)


def test_genimage_root_may_be_the_merged_layout(put, tmp_path):
    put("imagenet_ai/train/ai/1.png")
    put("imagenet_ai/train/nature/2.jpg")
    assert counts("genimage", tmp_path / "imagenet_ai", "train") == {"real": 1, "synthetic": 1}


def test_genimage_empty(tmp_path):
    with pytest.raises(SettingsError, match="no folder val"):
        load_dataset("genimage", tmp_path, "val")


# ---------------------------------------------------------------- DeepfakeBench


def test_deepfakebench_with_compression(put, tmp_path):
    base = "FaceForensics++"
    real, fake = "original_sequences/youtube/c23", "manipulated_sequences/Face2Face/c23"
    put(f"datasets/rgb/{base}/{real}/frames/000/0.png")
    put(f"datasets/rgb/{base}/{fake}/frames/000_003/0.png")
    mask = put(f"datasets/rgb/{base}/{fake}/masks/000_003/0.png")
    index = {
        base: {
            "FF-real": {"train": {"c23": {"000": {"label": "FF-real", "frames": [f"{base}/{real}/frames/000/0.png"]}}}},
            "FF-F2F": {"train": {"c23": {"000_003": {
                "label": "FF-F2F", "frames": [f"{base}\\{fake}\\frames\\000_003\\0.png".replace("/", "\\")],
            }}}},
        }
    }  # fmt: skip
    dump(tmp_path / "preprocessing" / "dataset_json" / f"{base}.json", index)
    one, other = load_dataset("deepfakebench", tmp_path, f"{base}:train:c23")
    assert (one.label, one.mask, one.source) == ("real", None, f"deepfakebench/{base}/FF-real")
    assert (other.label, other.mask) == ("tampered", mask)
    with pytest.raises(SettingsError, match="compression level, one of c23"):
        list(load_dataset("deepfakebench", tmp_path, f"{base}:train"))
    with pytest.raises(SettingsError, match="splits train"):
        list(load_dataset("deepfakebench", tmp_path, f"{base}:test:c23"))


def test_deepfakebench_without_compression(put, tmp_path):
    index = {}
    for name, folder in (
        ("CelebDFv2_real", "Celeb-real/frames/id0"),
        ("CelebDFv2_fake", "Celeb-synthesis/frames/a_b"),
    ):
        frame = f"datasets/rgb/Celeb-DF-v2/{folder}/1.png"
        put(frame)
        index[name] = {"test": {folder: {"label": name, "frames": [f"./{frame}"]}}}
    index = {"Celeb-DF-v2": index}
    dump(tmp_path / "preprocessing" / "dataset_json" / "Celeb-DF-v2.json", index)
    assert counts("deepfakebench", tmp_path, "Celeb-DF-v2:test") == {"real": 1, "tampered": 1}


def test_deepfakebench_unknown_class(put, tmp_path):
    put("datasets/rgb/x/frames/1.png")
    index = {"New": {"New_maybe": {"test": {"v": {"label": "New_maybe", "frames": ["x/frames/1.png"]}}}}}
    dump(tmp_path / "preprocessing" / "dataset_json" / "New.json", index)
    with pytest.raises(SettingsError, match="New_maybe"):
        list(load_dataset("deepfakebench", tmp_path, "New:test"))


# ---------------------------------------------------------------- all


def test_unknown_set_and_folder(tmp_path):
    with pytest.raises(SettingsError, match="deepfakebench, fakeclue"):
        load_dataset("imagenet", tmp_path, "train")
    for name in DATASETS:
        with pytest.raises(SettingsError, match="no folder"):
            load_dataset(name, tmp_path / "absent", "train")


def test_bytes_that_are_no_picture_are_refused(tmp_path):
    from vlmforensics.finetune.datasets import Found

    with pytest.raises(SettingsError, match="no PNG, JPEG or WebP"):
        list(
            to_samples(
                [Found(image=io.BytesIO(b"GIF89a").read(), name="x", label="real", source="s")], tmp_path
            )
        )


def test_import_command(put, tmp_path):
    from typer.testing import CliRunner

    from vlmforensics.finetune.cli import app

    put("set/m/train/ai/1.png")
    put("set/m/train/nature/2.jpg")
    done = CliRunner().invoke(
        app, ["import", "genimage", str(tmp_path / "set"), "--out", str(tmp_path / "out.jsonl")]
    )
    assert done.exit_code == 0, done.output
    samples = list(read_samples(tmp_path / "out.jsonl"))
    assert [(s.label, s.source) for s in samples] == [("real", "genimage/m"), ("synthetic", "genimage/m")]
    assert samples[0].answer != samples[1].answer
