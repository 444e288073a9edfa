"""The fuzzing command: its inputs can be made again, it sees what is wrong, and a short run finds nothing."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest

from vlmforensics.eval import fuzz
from vlmforensics.eval.hostile_files import FAMILIES, hostile_files
from vlmforensics.eval.mutations import cuts, mutate
from vlmforensics.imaging.specimens import specimens

KNOWN = specimens()


def mutated(number: int, seed: int = 7) -> fuzz.Input:
    name, data = mutate(list(KNOWN), KNOWN, random.Random(f"{seed}/{number}"))
    return fuzz.Input(number, name, data)


@pytest.fixture(scope="module")
def examiner():
    return fuzz.Examiner()


def test_a_short_run_finds_nothing(examiner):
    ended = [examiner.outcome(mutated(number)) for number in range(400)]
    assert [said for said in ended if said.startswith("WRONG") or said == "img.crash"] == []
    assert {"decoded", "judged", "img.truncated", "img.corrupt"} <= set(ended)


def test_cut_files_never_become_another_picture(examiner):
    chosen = random.Random(3).sample(cuts(KNOWN), 150)
    for number, (name, size) in enumerate(chosen):
        item = fuzz.Input(16 * number, f"cut {name} at {size}", KNOWN[name][:size], name)
        assert not examiner.outcome(item).startswith("WRONG"), item.name


@pytest.mark.parametrize("kind", ["loop", "both", "size", "liar", "refused"])
def test_files_made_to_do_harm(examiner, kind):
    found = [fuzz.Input(1, name, data) for name, data in FAMILIES[kind](KNOWN)]
    assert len(found) > 5
    assert {item.family for item in found} == {kind}
    assert [item.name for item in found if examiner.outcome(item).startswith("WRONG")] == []


def test_inputs_are_made_from_seed_and_number_alone(monkeypatch):
    monkeypatch.setattr(fuzz, "hostile_files", lambda: iter([("refused nothing", b"")]))
    first = len(cuts(KNOWN)) + fuzz.HOSTILE_FILES
    one = [item.data for item in fuzz.inputs(5, first, first + 6)]
    assert one[3:] == [item.data for item in fuzz.inputs(5, first + 3, first + 6)]
    assert one != [item.data for item in fuzz.inputs(6, first, first + 6)]
    assert [item.name for item in fuzz.inputs(5, 0, 1)] == ["refused nothing"]


@pytest.mark.slow
def test_the_files_made_to_do_harm_are_counted():
    names = [name for name, _ in hostile_files()]
    assert len(names) == len(set(names)) == fuzz.HOSTILE_FILES


def test_tiny_files_survive_every_mutation():
    for number in range(300):
        mutate(["a"], {"a": b"RIFF\x01\x00\x00\x00WEBP"[: 5 + number % 8]}, random.Random(number))


def test_wrong_ends_are_seen(examiner, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("division by zero")

    good = fuzz.Input(1, "png: nothing", KNOWN["png"])
    assert examiner.outcome(good) == "decoded"
    monkeypatch.setattr(fuzz, "open_case", broken)
    assert examiner.outcome(good) == "WRONG: open_case raised ZeroDivisionError: division by zero"
    monkeypatch.undo()
    other = fuzz.Input(1, "cut jpeg at 3", KNOWN["png"], "jpeg")
    assert "another picture" in examiner.outcome(other)


def test_a_process_that_dies_or_hangs_is_noted_and_the_run_goes_on(monkeypatch, tmp_path):
    class Child:
        """Dies at input 2, hangs at input 5."""

        def __init__(self, seed, start, count):
            self.start, self.count = start, count
            self.killed = False
            self.process = SimpleNamespace(returncode=-11)

        def __iter__(self):
            for number in range(self.start, self.count):
                if number in (2, 5):
                    self.killed = number == 5
                    return
                yield json.dumps([number, 1.5, 100, "decoded", "png", f"png: {number}"])

        def last_words(self):
            return "Segmentation fault"

    monkeypatch.setattr(fuzz, "_Child", Child)
    result = fuzz.run(8, 0)
    assert result["count"] == 8
    assert result["outcomes"]["png"]["decoded"] == 6
    assert result["outcomes"]["?"] == {"crash": 1, "hang": 1}
    assert [entry.split(":")[0] for entry in result["wrong"]] == ["2", "5"]
    page = tmp_path / "fuzzing.md"
    fuzz.write_page(result, page)
    page.write_text(page.read_text() + "\nBy hand.\n")
    fuzz.write_page(result, page)
    assert page.read_text().count("By hand.") == 1
    assert "**2 of them**" in page.read_text()
