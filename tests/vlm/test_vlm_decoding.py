"""Streaming text: whole characters, right spaces, limits."""

import pytest

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")

from vlmforensics.vlm.decoding import (  # noqa: E402
    PieceDecoder,
    in_a_loop,
    split_prefix,
    stream_greedily,
    without_leading,
)

TEXT = "Ünïcödé ☃ and 😀 emoji, two  spaces\nand a line — “quoted”."


class Bytes:
    """A byte-level tokenizer without merges: every byte is a token, so most characters take several."""

    def __init__(self):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {letter: i for i, letter in enumerate(alphabet)}
        self.backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        self.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.backend.decoder = decoders.ByteLevel()

    def encode(self, text):
        return self.backend.encode(text).ids

    def decode(self, ids, **_):
        return self.backend.decode(list(ids))


@pytest.fixture(scope="module")
def tokenizer():
    return Bytes()


def test_pieces_add_up_and_never_hold_half_a_character(tokenizer):
    decoder = PieceDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokenizer.encode(TEXT)]
    assert "".join(pieces) + decoder.finish() == TEXT
    assert "�" not in "".join(pieces)
    assert "" in pieces


def test_context_is_not_told_again(tokenizer):
    decoder = PieceDecoder(tokenizer, tokenizer.encode("The picture"))
    told = "".join(decoder.push(token) for token in tokenizer.encode(" is ☃"))
    assert told + decoder.finish() == " is ☃"


def test_an_unfinished_character_is_dropped_at_the_end(tokenizer):
    decoder = PieceDecoder(tokenizer)
    told = "".join(decoder.push(token) for token in tokenizer.encode("ok 😀")[:-1])
    assert told + decoder.finish() == "ok "


def test_bytes_that_are_no_character_leave_no_mark(tokenizer):
    decoder = PieceDecoder(tokenizer)
    ids = [tokenizer.encode("😀")[0], *tokenizer.encode("abc")]
    assert "".join(decoder.push(token) for token in ids) + decoder.finish() == "abc"


def walk(tokens, size=300):
    """A model that says ``tokens`` one after the other, whatever it is fed."""
    fed = []

    def step(ids):
        fed.append(list(ids))
        logits = torch.zeros(size)
        logits[tokens[len(fed) - 1]] = 5.0
        logits[7] = 9.0 if len(fed) == 2 else 0.0
        return logits

    return step, fed


def test_greedy_feeds_one_token_at_a_time_and_ends_at_the_end_token(tokenizer):
    ids = tokenizer.encode("fine")
    step, fed = walk([*ids, 299])
    pieces = list(
        stream_greedily(
            step, [1, 2, 3], PieceDecoder(tokenizer), ends=[299], banned=[7, 299], max_new_tokens=20
        )
    )
    assert "".join(pieces) == "fine"
    assert fed == [[1, 2, 3], *[[i] for i in ids]]


def test_the_limit_holds(tokenizer):
    step, fed = walk(tokenizer.encode("abcdef"))
    pieces = stream_greedily(step, [1], PieceDecoder(tokenizer), ends=[299], banned=[7], max_new_tokens=3)
    assert "".join(pieces) == "abc"
    assert len(fed) == 3


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        ([1, 2, 3, *[9, 8, 7, 6, 5, 4, 3, 2] * 3], True),
        ([9, 8, 7, 6, 5, 4, 3, 2] * 3 + [1], False),
        ([5] * 24, True),
        ([5] * 23, False),
        (list(range(20)) * 2, False),
        (list(range(30)) * 3, True),
        ([], False),
    ],
)
def test_a_phrase_said_three_times_running_is_a_loop(tokens, loops):
    assert in_a_loop(tokens) == loops


def test_a_model_in_a_loop_is_ended(tokenizer):
    step, fed = walk(tokenizer.encode("and so " * 30))
    pieces = stream_greedily(step, [1], PieceDecoder(tokenizer), ends=[299], banned=[7], max_new_tokens=200)
    assert "".join(pieces) == "and so " * 4
    assert len(fed) == 28


def test_spaces_between_prefix_and_reply_are_neither_lost_nor_doubled():
    assert split_prefix("The picture is ") == ("The picture is", " ")
    assert split_prefix("The") == ("The", "")
    assert list(without_leading(iter([" fine", " so"]), " ")) == ["fine", " so"]
    assert list(without_leading(iter([" ", " fine"]), " ")) == ["fine"]
    assert list(without_leading(iter([" fine"]), "")) == [" fine"]
