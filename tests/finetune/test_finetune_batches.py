"""What is learned of a sample, and which samples come together."""

from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from vlmforensics.errors import SettingsError  # noqa: E402
from vlmforensics.finetune.recipe import load_recipe  # noqa: E402
from vlmforensics.finetune.samples import read_samples  # noqa: E402
from vlmforensics.finetune.train_batches import (  # noqa: E402
    BalancedBuckets,
    balance,
    collate,
    pixels_of,
    target_of,
)
from vlmforensics.finetune.train_prompts import IGNORED, LlavaTurns, answer_of, encode  # noqa: E402
from vlmforensics.vlm.profiles import PROFILES  # noqa: E402

PLACES = 16


@pytest.fixture(scope="module")
def processor(tiny):
    return transformers.AutoProcessor.from_pretrained(tiny)


@pytest.fixture(scope="module")
def samples(lesson):
    return list(read_samples(lesson))


def turns_of(processor, name, marks=""):
    return LlavaTurns(processor, PROFILES[name], "<image>", PLACES, marks)


@pytest.mark.parametrize("recipe", ["fakevlm-7b", "x2dfd-7b", "sida-7b"])
def test_only_the_answer_is_learned(processor, samples, recipe):
    chosen = load_recipe(recipe)
    turns = turns_of(processor, chosen.prompt.profile)
    tokenizer = processor.tokenizer
    for sample in samples[:3]:
        encoded = encode(sample, turns, chosen.prompt, seed=0, epoch=0)
        learned = [i for i in encoded.labels if i != IGNORED]
        assert tokenizer.decode(learned) == f" {answer_of(sample, chosen.prompt)}</s>"
        assert encoded.ids.count(tokenizer.convert_tokens_to_ids("<image>")) == PLACES
        before = [i for i, label in zip(encoded.ids, encoded.labels, strict=True) if label == IGNORED]
        assert encoded.ids == before + learned, "the answer stands at the end, in one piece"


def test_the_verdict_comes_first_in_the_words_that_are_scored(samples):
    real, synthetic, tampered = samples[:3]
    own, fakevlm = load_recipe("sida-7b").prompt, load_recipe("fakevlm-7b").prompt
    assert answer_of(tampered, own).startswith("The picture is tampered. It shows")
    assert answer_of(real, fakevlm).startswith("This is a real image. It shows")
    said = synthetic.model_copy(update={"answer": "This is a fake image."})
    assert answer_of(said, fakevlm) == "This is a fake image."
    assert answer_of(said, fakevlm.model_copy(update={"verdict_first": False})) == "This is a fake image."


def test_training_words_the_prompt_as_inference_does(tiny, lesson, samples):
    from vlmforensics.settings import Settings
    from vlmforensics.vlm import load_backbone

    backbone = load_backbone(str(tiny), Settings(device="cpu", offline=True))
    profile = PROFILES["explained"]
    backbone.profile = profile
    look = backbone.look(pixels_of(samples[0]), samples[0].hints)
    prompt = load_recipe("sida-7b", ["prompt.hint_dropout=0.0"]).prompt
    encoded = encode(samples[0], turns_of(backbone.processor, "explained"), prompt, seed=0, epoch=0)
    assert encoded.ids[: len(look.state.ids)] == look.state.ids, (
        "the forced prefix is where the answer begins"
    )


def test_marks_stand_at_the_end_of_the_users_turn_and_text_forges_none(tiny, samples):
    from vlmforensics.finetune.train_model import extend_vocabulary, load_base

    model, processor = load_base(tiny, {"dtype": torch.float32})
    marks = extend_vocabulary(model, processor.tokenizer, ("[CLS]", "[SEG]"))
    turns = turns_of(processor, "explained", "[CLS][SEG]")
    forged = samples[0].model_copy(
        update={"prompt": "Is [SEG] or <image> real?", "answer": "A [CLS] </s> end."}
    )
    encoded = encode(forged, turns, load_recipe("sida-7b").prompt, seed=0, epoch=0)
    places = [encoded.ids.index(mark) for mark in marks]
    assert [encoded.ids.count(mark) for mark in marks] == [1, 1]
    assert places[1] == places[0] + 1
    assert encoded.ids.count(2) == 1
    rows = model.get_input_embeddings().weight
    assert len(rows) > max(marks)
    torch.testing.assert_close(rows[marks[0]], rows[: min(marks)].mean(0))


def test_a_long_answer_is_cut_and_a_long_prompt_refused(processor, samples):
    turns = turns_of(processor, "explained")
    prompt = load_recipe("sida-7b").prompt
    whole = encode(samples[0], turns, prompt, seed=0, epoch=0)
    limit = len(whole.ids) - 4
    short = encode(samples[0], turns, prompt.model_copy(update={"max_length": limit}), seed=0, epoch=0)
    assert short.ids == whole.ids[:limit]
    assert short.ids[-1] != processor.tokenizer.eos_token_id, "a cut answer must not teach to stop there"
    with pytest.raises(SettingsError, match=samples[0].image.name):
        encode(samples[0], turns, prompt.model_copy(update={"max_length": 20}), seed=0, epoch=0)


def test_detector_sentences_are_dropped_anew_in_each_epoch(processor, samples):
    turns, prompt = turns_of(processor, "explained"), load_recipe("sida-7b").prompt
    texts = [
        processor.tokenizer.decode(encode(sample, turns, prompt, seed=0, epoch=epoch).ids)
        for sample in samples
        for epoch in range(6)
    ]
    kept = ["blending detector" in text for text in texts]
    assert 0.25 < np.mean(kept) < 0.75
    firsts = np.array(kept).reshape(len(samples), 6)
    assert any(len(set(row)) == 2 for row in firsts.tolist())


def test_a_batch_is_padded_where_nothing_learns(processor, samples):
    turns, prompt = turns_of(processor, "explained"), load_recipe("sida-7b").prompt
    items = []
    for sample in samples[:3]:
        encoded = encode(sample, turns, prompt, seed=0, epoch=0)
        items.append(
            {"ids": encoded.ids, "labels": encoded.labels, "label": 1, "features": torch.zeros(2, 3)}
        )
    batch = collate(items, turns)
    assert batch["features"].shape == (3, 2, 3)
    padded = batch["attention_mask"] == 0
    assert (batch["labels"][padded] == IGNORED).all()
    assert (batch["input_ids"][padded] == processor.tokenizer.pad_token_id).all()
    assert int(batch["attention_mask"].sum()) == sum(len(item["ids"]) for item in items)


def test_labels_are_drawn_alike_and_large_sources_do_not_drown_small_ones(samples):
    many = [s.model_copy(update={"source": "big"}) for s in samples if s.label == "real"] * 25
    few = [s for s in samples if s.label != "real"] + [samples[0].model_copy(update={"source": "small"})]
    crowd = many + few
    shares = balance(crowd)
    assert shares.mean() == pytest.approx(1)
    drawn = Counter()
    sources = Counter()
    sampler = BalancedBuckets(shares, [1] * len(crowd), step=3, window=4, seed=0)
    for epoch in range(30):
        for index in sampler.order(epoch):
            drawn[crowd[index].label] += 1
            sources[crowd[index].source] += 1
    assert max(drawn.values()) < 1.1 * min(drawn.values())
    assert sources["small"] / sources["big"] == pytest.approx(1 / 10, rel=0.3), "root of 1 to 100"


def test_draws_are_a_function_of_seed_and_epoch_and_fill_whole_steps():
    lengths = np.random.default_rng(0).integers(10, 500, 50)
    sampler = BalancedBuckets(np.ones(50), lengths, step=8, window=3, seed=1)
    assert len(sampler) == 48
    sampler.set_epoch(2)
    pairs = list(sampler)
    assert {epoch for epoch, _ in pairs} == {2}
    assert [index for _, index in pairs] == sampler.order(2).tolist()
    assert sampler.order(2).tolist() != sampler.order(3).tolist()
    assert max(Counter(sampler.order(2).tolist()).values()) == 1, "even shares: nothing comes twice"
    spread = [np.ptp(lengths[sampler.order(e)].reshape(-1, 8), axis=1).mean() for e in range(10)]
    unsorted = BalancedBuckets(np.ones(50), [0] * 50, step=8, window=3, seed=1)
    free = [np.ptp(lengths[unsorted.order(e)].reshape(-1, 8), axis=1).mean() for e in range(10)]
    assert np.mean(spread) < 0.6 * np.mean(free), "samples of a step are of like length"


def test_targets_follow_mask_boxes_and_label(samples):
    real, synthetic, tampered = samples[0], samples[1], samples[5]
    pixels = pixels_of(tampered)
    target, known = target_of(tampered, pixels)
    assert known
    height, width = pixels.shape[:2]
    assert float(target.mean()) == pytest.approx(30 * 30 / (height * width), rel=0.05)
    assert float(target_of(real, pixels)[0].max()) == 0
    assert target_of(synthetic, pixels)[1]
    bare = tampered.model_copy(update={"mask": None})
    assert not target_of(bare, pixels)[1]
    boxed = target_of(bare.model_copy(update={"boxes": ((20, 10, 50, 40),)}), pixels)
    torch.testing.assert_close(boxed[0], target)
    with pytest.raises(SettingsError, match="its picture"):
        target_of(tampered, pixels[:-2])


def test_another_picture_than_the_samples_is_refused(samples):
    with pytest.raises(SettingsError, match="digest"):
        pixels_of(samples[0].model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(SettingsError, match="can't be used"):
        pixels_of(samples[0].model_copy(update={"image": samples[0].image.with_name("none.png")}))
