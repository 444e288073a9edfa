import tomllib
from collections import Counter
from pathlib import Path

import pytest

from vlmforensics.clues import CATEGORIES, SUBJECTS, catalogue, measured_answer, page, read_catalogue
from vlmforensics.errors import SettingsError
from vlmforensics.signals import load_sources
from vlmforensics.types import Evidence

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "vlmforensics" / "clues" / "catalogue.toml"


def test_there_are_enough_and_every_category_and_subject_is_served():
    clues = list(catalogue())
    assert len(clues) >= 60
    assert set(Counter(clue.category for clue in clues)) == set(CATEGORIES)
    for subject in SUBJECTS:
        assert sum(subject in clue.applies for clue in clues) >= 5, subject
        assert len(catalogue().observable(subject)) >= 10
    assert {clue.measured for clue in clues} == {True, False}


def test_page_is_the_one_that_the_data_makes():
    assert (ROOT / "docs" / "clues.md").read_text(encoding="utf-8") == page(catalogue()), (
        "run: vlmforensics finetune clues --write docs/clues.md"
    )


def test_measured_clues_read_sources_and_codes_that_exist():
    declared = tomllib.loads((ROOT / "finetune" / "provenance.toml").read_text(encoding="utf-8"))
    sources = {source.name for source in load_sources()} | {"blending", "mask", "npr", "jpeg_crop"}
    for clue in catalogue():
        if clue.measured:
            assert clue.source in sources, clue.id
            assert set(clue.codes) <= set(declared.get(clue.source, {})), clue.id


def test_every_decisive_code_is_a_clue():
    declared = tomllib.loads((ROOT / "finetune" / "provenance.toml").read_text(encoding="utf-8"))
    known = {(clue.source, code) for clue in catalogue() for code in clue.codes}
    for source, codes in declared.items():
        for code, llr in codes.items():
            if max(llr.values()) >= 1:
                assert (source, code) in known


def test_rules_agree_with_the_statements_of_the_sources():
    from vlmforensics.signals import jpeg_double, jpeg_ghost, jpeg_grid, noise, upsampling

    found = {
        "jpeg_ghost": jpeg_ghost.FOUND, "jpeg_grid": jpeg_grid.FOUND_LOCALLY, "jpeg_crop": jpeg_grid.FOUND,
        "jpeg_double": jpeg_double.FOUND, "noise": noise.FOUND, "upsampling": upsampling.FOUND,
        "npr": upsampling.FOUND_CELLS,
    }  # fmt: skip
    for source, threshold in found.items():
        (clue,) = (clue for clue in catalogue() if clue.source == source)
        assert clue.at_least == threshold


def evidence(source, **facts):
    return Evidence(source, "This was measured somehow.", **facts)


def test_measured_answers():
    ghost, marks = catalogue()["jpeg-ghost-part"], catalogue()["generation-parameters-present"]
    yes = [evidence("noise", score=9.0), evidence("jpeg_ghost", score=5.0)]
    assert measured_answer(ghost, yes) == (True, yes[1])
    assert measured_answer(ghost, [evidence("jpeg_ghost", score=4.9)])[0] is False
    assert measured_answer(ghost, [evidence("noise", score=9.0)]) is None
    assert measured_answer(marks, [evidence("generation_parameters", code="comfyui")])[0] is True
    assert measured_answer(marks, [evidence("generation_parameters", code="none")])[0] is False
    assert measured_answer(catalogue()["tampered-region-marked"], [evidence("mask")])[0] is False


def test_questions_about_pictures_of_unknown_content_suit_any_picture():
    unknown = catalogue().observable()
    assert unknown
    assert all(not clue.applies for clue in unknown)
    assert set(unknown) < set(catalogue().observable("human"))


def test_unknown_clue_is_named():
    with pytest.raises(SettingsError, match="no-such-clue"):
        catalogue()["no-such-clue"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('category = "face"', 'category = "nose"', "'eyes-catchlights-differ': category"),
        ('favours = ["synthetic", "tampered"]', 'favours = ["fake"]', "favours"),
        ('favours = ["synthetic", "tampered"]', 'favours = ["real", "synthetic", "tampered"]', "every label"),
        ('applies = ["human", "deepfake"]', 'applies = ["human", "human"]', "twice"),
        ('differ in shape, number or side?"', 'differ"', "question"),
        ('id = "pupils-irregular"', 'id = "eyes-catchlights-differ"', "share their id"),
        ('source = "noise"\nat_least = 5.0', 'source = "noise"', "at_least or codes"),
        ('id = "pupils-irregular"', 'id = "pupils-irregular"\nweight = 3', "weight"),
        ("version = 1\n", "version = \n", "no TOML"),
    ],
)
def test_a_broken_catalogue_is_refused(tmp_path, old, new, says):
    text = FILE.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "clues.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SettingsError, match=says):
        read_catalogue(tmp_path / "clues.toml")
