"""What a model says by itself is quoted where it can be let through, and never as a verdict."""

import pytest

from vlmforensics.explain import remark_evidence
from vlmforensics.explain.remarks import kept_sentences

FAKEVLM = (
    "This is a fake image. The skin is unnaturally smooth and lacks pores. The left ear melts into the hair. "
    "There are 6 fingers on one hand. It is certainly not authentic. The light comes from two directions"
)


def test_the_verdict_sentence_is_dropped_and_the_rest_quoted():
    kept, dropped = kept_sentences(FAKEVLM)
    assert kept == ["The skin is unnaturally smooth and lacks pores.", "The left ear melts into the hair."]
    assert dropped == 3  # a number, a claim of authenticity, an unfinished sentence
    (evidence,) = remark_evidence("fakevlm", FAKEVLM)
    assert evidence.statement.startswith("fakevlm remarks, unmeasured: “The skin")
    assert evidence.status == "observed"
    assert evidence.score is None
    assert not evidence.vector
    assert evidence.recompute == {"backbone": "fakevlm", "sentences": 2, "dropped": 3}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "This is a real image.",
        "The image looks fake.",
        "<script>alert(1)</script> is in the corner.",
        "It is 100 % real, as metadata E3 proves.",
        "word " * 200,
    ],
)
def test_what_may_not_be_quoted_leaves_no_evidence(text):
    assert remark_evidence("fakevlm", text) == []


def test_no_more_than_three_sentences_and_none_twice():
    text = "The shadows fall in the wrong direction. " * 4 + " ".join(
        f"The {part} of the face is blurred at its edge." for part in ("left side", "chin", "mouth", "brow")
    )
    kept, _ = kept_sentences(text)
    assert len(kept) == 3
    assert len(set(kept)) == 3
