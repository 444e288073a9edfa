"""What every family must pass, on tiny random checkpoints: the backbone computes what bare transformers computes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from vlmforensics.errors import Defect, ModelError  # noqa: E402
from vlmforensics.settings import Settings  # noqa: E402
from vlmforensics.vlm import load_backbone  # noqa: E402
from vlmforensics.vlm.families import FAMILIES  # noqa: E402
from vlmforensics.vlm.llava import LlavaBackbone  # noqa: E402
from vlmforensics.vlm.rows import joinable  # noqa: E402

TOLERANCE = 1e-4
HINTS = [(), ("The blending detector gives 0.12 out of 1.",), ()]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def backbone(request, tmp_path_factory, families) -> LlavaBackbone:
    folder = families.write(request.param, tmp_path_factory.mktemp("family") / request.param)
    cache = tmp_path_factory.mktemp("cache")
    return load_backbone(str(folder), Settings(cache=cache, device="cpu", offline=True))


@pytest.fixture(scope="module")
def pictures():
    """Wide, tall and small, so that tiles, grids and padding differ."""
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((60, 110), (130, 64), (40, 40))]


def stock(backbone, pixels, text):
    """Inputs as the stock processor makes them, for one picture."""
    return backbone.processor(images=[backbone._fit(pixels)], text=[text], return_tensors="pt")


def prompt(backbone, hints=(), more=""):
    question = " ".join([backbone.profile.question, *hints])
    return backbone._prompt(f"{question}{more}")


def test_every_family_has_a_tiny_checkpoint(families):
    assert set(families.FAMILIES) == set(FAMILIES)


def test_prefill_logits_are_those_of_the_bare_model(backbone, pictures):
    for pixels in pictures:
        inputs = stock(backbone, pixels, prompt(backbone))
        with torch.inference_mode():
            bare = backbone.model(**inputs).logits[0, -3:]
            read = backbone.reader.prefill(dict(inputs), keep=3)
        np.testing.assert_allclose(read.logits[0], bare, atol=TOLERANCE)


def test_label_words_are_scored_as_whole_texts_score_them(backbone, pictures):
    begun = prompt(backbone) + f" {backbone.profile.prefix}"
    scores = {}
    for word in backbone.profile.words:
        inputs = stock(backbone, pictures[0], begun + word)
        known = stock(backbone, pictures[0], begun)["input_ids"].shape[1]
        with torch.inference_mode():
            rows = torch.log_softmax(backbone.model(**inputs).logits[0], -1)
        ids = inputs["input_ids"][0]
        scores[word] = sum(float(rows[i - 1, ids[i]]) for i in range(known, len(ids)))
    found = backbone.look(pictures[0]).log_probs
    np.testing.assert_allclose(found, backbone.profile.log_probs(scores), atol=TOLERANCE)
    assert sum(np.exp(found)) == pytest.approx(1)


def test_a_batch_equals_one_by_one(backbone, pictures):
    together = backbone.look_many(pictures, HINTS)
    for pixels, hints, look in zip(pictures, HINTS, together, strict=True):
        alone = backbone.look(pixels, hints, for_text=False)
        np.testing.assert_allclose(look.log_probs, alone.log_probs, atol=TOLERANCE)
        assert look.state is None
    assert len({look.log_probs for look in together}) == 3


def test_padding_is_on_the_left_and_changes_nothing(backbone, pictures):
    texts = [prompt(backbone, hints) for hints in HINTS]
    inputs = backbone._inputs(pictures, texts)
    padded = inputs["attention_mask"] == 0
    assert padded.any()
    assert not padded[:, -1].any()
    with torch.inference_mode():
        together = backbone.reader.prefill(inputs).logits[:, -1]
        for row, pixels, text in zip(together, pictures, texts, strict=True):
            alone = backbone.model(**stock(backbone, pixels, text)).logits[0, -1]
            np.testing.assert_allclose(row, alone, atol=TOLERANCE)


def test_image_tokens_are_as_many_as_the_tower_gives(backbone, pictures):
    counts = []
    for pixels in pictures:
        inputs = stock(backbone, pixels, prompt(backbone))
        count = int((inputs["input_ids"] == backbone.model.config.image_token_id).sum())
        given = {
            key: value
            for key, value in inputs.items()
            if key not in ("input_ids", "attention_mask", "mm_token_type_ids")
        }
        with torch.inference_mode():
            features = backbone.model.get_image_features(**given)
        made = (
            torch.cat(tuple(features.pooler_output)).shape[0]
            if not torch.is_tensor(features.pooler_output)
            else (features.pooler_output.reshape(-1, features.pooler_output.shape[-1]).shape[0])
        )
        assert made == count > 0
        counts.append(count)
    assert (len(set(counts)) == 1) == (backbone._square)


def test_keys_and_values_reused_equal_a_fresh_computation(backbone, pictures):
    look = backbone.look(pictures[1], HINTS[1])
    other = backbone.look(pictures[0])  # another picture in between must not disturb what the first one keeps
    said = "".join(backbone.narrate(look, "Explain.", prefix="The real", max_new_tokens=10))
    text = prompt(backbone, HINTS[1], "\nExplain.") + " The real"
    inputs = stock(backbone, pictures[1], text)
    with torch.inference_mode():
        whole = backbone.model.generate(
            **inputs,
            max_new_tokens=10,
            do_sample=False,
            suppress_tokens=sorted(set(backbone._banned) - set(backbone._ends)),
        )
    told = backbone.tokenizer.decode(whole[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said.replace("�", "") == told.replace("�", "")
    assert "".join(backbone.narrate(look, "Explain.", prefix="The real", max_new_tokens=10)) == said
    assert "".join(backbone.narrate(other, "Explain.", prefix="The real", max_new_tokens=10)) is not None


def test_replies_written_together_equal_those_written_alone(backbone, pictures):
    """Prompts of unlike length: pictures, hints, instructions and forced beginnings all differ."""
    looks = [backbone.look(pixels, hints) for pixels, hints in zip(pictures, HINTS, strict=True)]
    asked = ["Explain.", "Say at length what can be seen in it, and where.", "Why?"]
    prefixes = ["The real ", "", "It shows"]
    lengths = {len(look.state.ids) for look in looks}
    assert len(lengths) > 1
    assert all(joinable(look.state.read.cache) for look in looks)
    alone = [
        "".join(backbone.narrate(look, ask, prefix=prefix, max_new_tokens=12))
        for look, ask, prefix in zip(looks, asked, prefixes, strict=True)
    ]
    assert len(set(alone)) == 3
    assert backbone.narrate_many(looks, asked, prefixes, max_new_tokens=12) == alone
    cut = backbone.narrate_many(
        looks, asked, prefixes, max_new_tokens=12, enough=lambda row, text: row == 1 and bool(text.strip())
    )
    assert [cut[0], cut[2]] == [alone[0], alone[2]]
    assert alone[1].startswith(cut[1])
    assert len(cut[1]) < len(alone[1])
    # the looks were read, not used up
    assert "".join(backbone.narrate(looks[0], asked[0], prefix=prefixes[0], max_new_tokens=12)) == alone[0]


def test_tokens_fed_after_a_prefill_equal_the_whole_text(backbone, pictures):
    text = prompt(backbone)
    whole = stock(backbone, pictures[2], text + " synthetic picture of the real")
    begun = stock(backbone, pictures[2], text)
    rest = [int(i) for i in whole["input_ids"][0, begun["input_ids"].shape[1] :]]
    with torch.inference_mode():
        read = backbone.reader.prefill(dict(begun))
        first = backbone.reader.feed(read, rest, keep=len(rest))
        again = backbone.reader.feed(backbone.reader.forget(first, len(rest)), rest, keep=len(rest))
        bare = backbone.model(**whole).logits[0, -len(rest) :]
    np.testing.assert_allclose(first.logits[0], bare, atol=TOLERANCE)
    np.testing.assert_allclose(again.logits[0], bare, atol=TOLERANCE)


def test_generation_stops(backbone, pictures, monkeypatch):
    look = backbone.look(pictures[0])
    heard = []
    for piece in backbone.narrate(look, "Explain.", max_new_tokens=50, stop=lambda: len(heard) >= 2):
        heard.append(piece)
    assert len(heard) <= 2
    assert (
        len(list(backbone.narrate(look, "Explain.", max_new_tokens=3))) <= 4
    )  # the tail may hold a piece back
    # whatever the model would say first, now ends the turn
    ids = backbone._fitting(look.state, "Explain.", "", 5)
    with torch.inference_mode():
        cut = stock(backbone, pictures[0], prompt(backbone, (), "\nExplain."))
        logits = backbone.model(**cut).logits[0, -1]
    logits = logits.clone()  # one made under inference mode may not be written to
    logits[list(set(backbone._banned) - set(backbone._ends))] = -torch.inf
    assert cut["input_ids"][0].tolist() == ids
    monkeypatch.setattr(backbone, "_ends", (*backbone._ends, int(logits.argmax())))
    assert "".join(backbone.narrate(look, "Explain.", max_new_tokens=20)) == ""


def test_a_look_of_another_backbone_is_refused(backbone, pictures):
    with pytest.raises(Defect, match="for_text"):
        backbone.narrate(backbone.look(pictures[0], for_text=False), "Explain.")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('{"model_type": "bert"}', "model_type 'bert'"),
        (
            '{"model_type": "llava", "mm_vision_tower": "openai/clip", "architectures": ["X"]}',
            "original LLaVA code",
        ),
    ],
)
def test_other_layouts_are_refused_by_what_the_configuration_says(tmp_path, config, says):
    folder = tmp_path / "llava-1.5-7b"  # the name promises, the configuration decides
    folder.mkdir()
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError, match=says):
        load_backbone(str(folder), Settings(cache=tmp_path, device="cpu", offline=True))
