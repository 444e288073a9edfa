"""The batch file as ledger: whole lines, torn tails, resuming, strangers refused."""

import json

import pytest

from vlmforensics.errors import CorruptImage, SettingsError
from vlmforensics.report import error_record, to_json
from vlmforensics.report.ledger import Ledger, file_digest
from vlmforensics.types import ModelInfo

MODEL = ModelInfo("compact", "1", "a" * 64, "b" * 64, "c" * 64)


def record(name, sha256="0" * 64, model=MODEL):
    return error_record(name, sha256, CorruptImage("this can't be decoded"), model)


def test_records_are_on_disk_when_append_returns(tmp_path):
    path = tmp_path / "out.jsonl"
    with Ledger(path) as ledger:
        ledger.append(record("a"))
        assert json.loads(path.read_text())["file"] == "a"
        assert ledger.has("a", "0" * 64)
        assert (ledger.count, ledger.failed) == (1, 1)


def test_resume_knows_what_is_recorded_by_name_and_bytes(tmp_path):
    path = tmp_path / "out.jsonl"
    with Ledger(path) as ledger:
        ledger.append(record("a", "1" * 64))
        ledger.append(record("gone", None))
    with Ledger(path, resume=True) as ledger:
        assert ledger.has("a", "1" * 64)
        assert not ledger.has("a", "2" * 64)
        assert ledger.has("gone", None)
        assert not ledger.has("gone", "1" * 64)
        assert not ledger.knows("b")
        ledger.append(record("b"))
    assert [json.loads(line)["file"] for line in path.read_text().splitlines()] == ["a", "gone", "b"]


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_torn_last_line_is_cut_off(tmp_path, keep):
    path = tmp_path / "out.jsonl"
    whole = to_json(record("a")) + "\n"
    torn = to_json(record("b"))
    path.write_text(whole + torn[:keep])
    with Ledger(path, resume=True) as ledger:
        assert ledger.count == 1
        assert not ledger.knows("b")
        ledger.append(record("c"))
    assert [json.loads(line)["file"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_a_whole_record_without_its_line_end_counts_as_torn(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text(to_json(record("a")))
    with Ledger(path, resume=True) as ledger:
        assert ledger.count == 0
    assert path.read_text() == ""


def test_an_existing_file_needs_a_word(tmp_path):
    path = tmp_path / "out.jsonl"
    with Ledger(path) as ledger:
        ledger.append(record("a"))
    with pytest.raises(SettingsError, match="--resume"):
        Ledger(path)
    with Ledger(path, overwrite=True) as ledger:
        assert ledger.count == 0
    assert path.read_text() == ""
    with Ledger(path) as ledger:  # empty is as good as absent
        ledger.append(record("b"))


@pytest.mark.parametrize("content", ["hello\n", '{"a": 1}\n', "[]\n", "\n", "\x00\xff\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(SettingsError, match="not a batch record"):
        Ledger(path, resume=True)
    assert path.read_text(encoding="latin-1") == content


@pytest.mark.parametrize(
    "field", ["weights_sha256", "calibration_sha256", "settings_sha256", "version", "name"]
)
def test_records_of_other_weights_are_not_mixed_in(tmp_path, field):
    path = tmp_path / "out.jsonl"
    other = ModelInfo(**{**{k: getattr(MODEL, k) for k in MODEL.__dataclass_fields__}, field: "other"})
    with Ledger(path) as ledger:
        ledger.append(record("a"))
    with Ledger(path, resume=True) as ledger, pytest.raises(SettingsError, match=field):
        ledger.append(record("b", model=other))
    assert len(path.read_text().splitlines()) == 1


def test_two_writers_are_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    with Ledger(path), pytest.raises(SettingsError, match="another process"):
        Ledger(path, resume=True)
    Ledger(path, resume=True).close()


def test_an_unwritable_place_is_said(tmp_path):
    with pytest.raises(SettingsError, match="can't write"):
        Ledger(tmp_path / "none" / "out.jsonl")


def test_digest_of_what_can_not_be_read_is_none(tmp_path):
    assert file_digest(tmp_path) is None
    assert file_digest(tmp_path / "none") is None
    (tmp_path / "a").write_bytes(b"")
    assert file_digest(tmp_path / "a") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
