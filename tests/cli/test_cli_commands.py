"""The command line: outputs, exit codes, one clean line per error, and nothing heavy for --help."""

import json
import subprocess
import sys

import jsonschema
import pytest
from typer.testing import CliRunner

from vlmforensics.assistant import Assistant
from vlmforensics.cli import app
from vlmforensics.errors import WeightsUnavailable
from vlmforensics.report import digest, schema

CHECKER = jsonschema.Draft202012Validator(schema())
run = CliRunner().invoke


@pytest.fixture(autouse=True)
def scripted(fakes, monkeypatch):
    """Every command gets the assistant of fakes."""
    monkeypatch.setattr(
        Assistant,
        "load",
        classmethod(lambda cls, model=None, *, settings=None: fakes.make(settings=settings)),
    )
    monkeypatch.setattr("vlmforensics.batch.supervised.BOOT", fakes.boot())
    for name in ("VLMF_MODEL", "VLMF_ALPHA", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def picture(fakes, tmp_path):
    return fakes.write(tmp_path / "photo.jpg")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom vlmforensics.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = ('torch', 'transformers', 'gradio', 'ray', 'numpy', 'scipy', 'cv2')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for command in ("examine", "batch", "chat", "ui", "report", "models", "doctor", "finetune", "eval"):
        assert command in done.stdout


def test_version():
    from vlmforensics import __version__

    result = run(app, ["--version"])
    assert result.exit_code == 0
    assert __version__ in result.stdout


def test_examine_prints_verdict_probabilities_evidence_and_text(picture):
    result = run(app, ["examine", str(picture)])
    assert result.exit_code == 0
    for needed in (
        "The evidence supports: partly edited",
        "tampered",
        "brightness",
        "E1",
        "80\u00a0% of 500",
    ):
        assert needed in result.stdout, needed
    assert "[E1]" in result.stdout


def test_examine_json_is_one_record_and_nothing_else(picture):
    result = run(app, ["examine", str(picture), "--json"])
    record = json.loads(result.stdout)
    CHECKER.validate(record)
    assert record["file"] == str(picture)
    assert len(record["explanation"]) > 60


def test_examine_several_as_json_lines_with_errors_as_records(fakes, picture, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("nothing")
    result = run(
        app, ["examine", str(picture), str(bad), str(tmp_path / "missing.jpg"), "--json", "--no-text"]
    )
    assert result.exit_code == 1
    records = [json.loads(line) for line in result.stdout.splitlines()]
    for record in records:
        CHECKER.validate(record)
    assert [record["error"] is None for record in records] == [True, False, False]
    assert [record["sha256"] is None for record in records] == [False, False, True]
    assert records[0]["explanation"] is None
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 2


@pytest.mark.parametrize("ending", ["html", "md", "json"])
def test_examine_saves_a_report(picture, tmp_path, ending):
    target = tmp_path / f"report.{ending}"
    result = run(app, ["examine", str(picture), "--save", str(target)])
    assert result.exit_code == 0
    assert "Inconclusive" in target.read_text() or "supports" in target.read_text() or ending == "json"


def test_wrong_endings_and_too_many_pictures_are_usage(picture, tmp_path):
    assert run(app, ["examine", str(picture), "--save", str(tmp_path / "r.pdf")]).exit_code == 2
    assert (
        run(app, ["examine", str(picture), str(picture), "--save", str(tmp_path / "r.html")]).exit_code == 2
    )
    assert run(app, ["examine"]).exit_code == 2
    assert run(app, ["examine", str(picture), "--alpha", "2"]).exit_code == 2
    assert run(app, ["nonsense"]).exit_code == 2


def test_several_reports_go_to_a_folder(fakes, tmp_path):
    files = [str(fakes.write(tmp_path / f"{index}.jpg", index)) for index in range(2)]
    folder = tmp_path / "out"
    folder.mkdir()
    assert run(app, ["examine", *files, "--save", str(folder), "--no-text"]).exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["0.html", "1.html"]


def test_alpha_and_settings_file_reach_the_verdict(picture, tmp_path):
    settings = tmp_path / "s.toml"
    settings.write_text("alpha = 0.2\n")
    record = json.loads(run(app, ["examine", str(picture), "--json", "--settings", str(settings)]).stdout)
    assert record["alpha"] == 0.2
    record = json.loads(
        run(app, ["examine", str(picture), "--json", "--settings", str(settings), "--alpha", "0.03"]).stdout
    )
    assert record["alpha"] == 0.03


def test_a_missing_model_is_one_line_and_exit_1(picture, monkeypatch):
    def load(cls, model=None, *, settings=None):
        raise WeightsUnavailable("the weights are not here; `vlmforensics models pull` fetches them")

    monkeypatch.setattr(Assistant, "load", classmethod(load))
    result = run(app, ["examine", str(picture)])
    assert result.exit_code == 1
    assert result.stderr.strip() == (
        "vlmforensics: the weights are not here; `vlmforensics models pull` fetches them"
    )


def test_a_defect_is_one_line_too_unless_debugging(picture, monkeypatch):
    monkeypatch.setattr(Assistant, "load", classmethod(lambda cls, *given, **named: 1 / 0))
    result = run(app, ["examine", str(picture)])
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "ZeroDivisionError" in result.stderr
    assert isinstance(run(app, ["--debug", "examine", str(picture)]).exception, ZeroDivisionError)


def test_interrupting_is_130(picture, monkeypatch):
    def interrupt(cls, *given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(Assistant, "load", classmethod(interrupt))
    assert run(app, ["examine", str(picture)]).exit_code == 130


def test_batch_writes_valid_records_and_exits_1_on_errors(fakes, tmp_path):
    folder = tmp_path / "in"
    for index in range(3):
        fakes.write(folder / f"{index}.jpg", index)
    out = tmp_path / "out.jsonl"
    assert run(app, ["batch", str(folder), "--out", str(out)]).exit_code == 0
    (folder / "text.jpg").write_text("nothing")
    assert run(app, ["batch", str(folder), "--out", str(out)]).exit_code == 2
    result = run(app, ["batch", str(folder), "--out", str(out), "--resume", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["examined"] == 1
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == 4
    for record in records:
        CHECKER.validate(record)
    assert all(len(record["explanation"]) > 60 for record in records if record["error"] is None)
    again = run(
        app,
        [
            "batch",
            str(folder),
            "--out",
            str(out),
            "--overwrite",
            "--no-text",
            "--table",
            str(tmp_path / "t.csv"),
        ],
    )
    assert again.exit_code == 1
    assert all(json.loads(line)["explanation"] is None for line in out.read_text().splitlines())
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 5


def test_the_output_inside_the_folder_is_not_an_input(fakes, tmp_path):
    fakes.write(tmp_path / "a.jpg")
    out = tmp_path / "out.jsonl"
    for extra in ([], ["--resume"]):
        assert run(app, ["batch", str(tmp_path), "--out", str(out), "--no-text", *extra]).exit_code == 0
    assert len(out.read_text().splitlines()) == 1


def test_batch_options_that_can_not_be_meant(tmp_path):
    (tmp_path / "in").mkdir()
    for out, *extra in (
        ("o.csv",),
        ("o", "--text", "some"),
        ("o", "--resume", "--overwrite"),
        ("o", "-j", "0"),
    ):
        command = ["batch", str(tmp_path / "in"), "--out", str(tmp_path / out), *extra]
        assert run(app, command).exit_code == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


def test_batch_writes_what_was_asked_for(fakes, tmp_path):
    for index in range(3):
        fakes.write(tmp_path / "in" / f"{index}.jpg", index)
    out = tmp_path / "in" / "out.jsonl"  # outputs among the inputs are no inputs
    others = {name: tmp_path / "in" / name for name in ("gallery", "masks", "c.json", "t.parquet")}
    command = [
        "batch", str(tmp_path / "in"), "--out", str(out), "--resume", "--text", "top-1",
        "--gallery", str(others["gallery"]), "--masks", str(others["masks"]),
        "--conversations", str(others["c.json"]), "--table", str(others["t.parquet"]),
    ]  # fmt: skip
    for _ in range(2):
        assert run(app, command).exit_code == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == 3
    assert sum(record["explanation"] is not None for record in records) == 1
    assert (others["gallery"] / "index.html").exists()
    assert all(path.exists() for path in others.values())
    summary = json.loads((tmp_path / "in" / "out.run.json").read_text())
    assert summary["counts"]["records_in_file"] == 3
    assert summary["counts"]["examined"] == 3  # of the run that examined something
    assert summary["parameters"]["text"] == "top-1"


def test_batch_of_nothing_or_nowhere(tmp_path):
    assert run(app, ["batch", str(tmp_path / "none"), "--out", str(tmp_path / "o")]).exit_code == 2
    (tmp_path / "in").mkdir()
    assert run(app, ["batch", str(tmp_path / "in"), "--out", str(tmp_path / "o")]).exit_code == 0
    assert (tmp_path / "o").read_text() == ""


def test_chat_answers_from_a_pipe(picture, tmp_path):
    target = tmp_path / "r.md"
    result = run(app, ["chat", str(picture)], input=f"Where?\n\n/save {target}\n/what\nHow sure?\n")
    assert result.exit_code == 0
    assert "> Where?" in result.stdout
    assert "> How sure?" in result.stdout
    assert "Where?" in target.read_text()


def test_report_from_a_record_and_from_a_picture(picture, tmp_path):
    record, page = tmp_path / "r.json", tmp_path / "r.html"
    assert run(app, ["examine", str(picture), "--save", str(record)]).exit_code == 0
    result = run(app, ["report", str(record), "--out", str(page)])
    assert result.exit_code == 0
    wanted = digest(json.loads(record.read_text()))
    assert wanted in result.stdout
    assert wanted in page.read_text()
    assert "data:image/png" in page.read_text()
    moved = picture.rename(tmp_path / "moved.jpg")
    result = run(app, ["report", str(record), "--out", str(page)])
    assert "data:image/png" not in page.read_text()
    assert "not at hand" in result.stderr
    run(app, ["report", str(record), "--out", str(page), "--image", str(moved)])
    assert "data:image/png" in page.read_text()
    assert run(app, ["report", str(moved), "--out", str(tmp_path / "r.md")]).exit_code == 0


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema": "vlmforensics.record/1"}', "\x00"])
def test_report_of_something_else_is_an_error(tmp_path, content):
    source = tmp_path / "r.json"
    source.write_text(content)
    result = run(app, ["report", str(source), "--out", str(tmp_path / "r.html")])
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("ending", ["html", "md", "json"])
def test_report_of_another_picture_is_refused(fakes, picture, tmp_path, ending):
    record = tmp_path / "r.json"
    run(app, ["examine", str(picture), "--save", str(record)])
    other = fakes.write(tmp_path / "other.jpg", 5)
    page = tmp_path / f"page.{ending}"
    result = run(app, ["report", str(record), "--out", str(page), "--image", str(other)])
    assert result.exit_code == 1
    assert "SHA-256 differs" in result.stderr
    assert not page.exists()


def test_models_list_and_verify_without_a_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VLMF_HOME", str(tmp_path))
    rows = json.loads(run(app, ["models", "list", "--json"]).stdout)
    assert {"compact"} <= {row["name"] for row in rows}
    assert {row["state"] for row in rows} == {"absent"}
    assert "compact" in run(app, ["models", "list"]).stdout
    assert run(app, ["models", "verify", "compact"]).exit_code == 1
    offline = run(app, ["models", "pull", "compact", "--offline"])
    assert offline.exit_code == 1
    assert len(offline.stderr.strip().splitlines()) >= 1


def test_doctor_says_what_there_is(monkeypatch, tmp_path):
    monkeypatch.setenv("VLMF_HOME", str(tmp_path))
    result = run(app, ["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert checks["processor"]["state"] == "ok"
    assert checks["weights compact"]["state"] == "note"
    assert "needs" in checks["fits llava-1.5-7b"]["says"]
    assert result.exit_code == int(any(check["state"] == "problem" for check in checks.values()))
    assert "processor" in run(app, ["doctor"]).stdout


def test_ui_gets_its_arguments(monkeypatch):
    import vlmforensics.ui

    seen = {}
    monkeypatch.setattr(
        vlmforensics.ui,
        "serve",
        lambda settings, host, port, **more: seen.update(model=settings.model, host=host, port=port, **more),
    )
    assert run(app, ["ui", "--port", "0", "--model", "fakevlm"]).exit_code == 0
    asked = {"model": "fakevlm", "host": "127.0.0.1", "port": 0}
    assert seen == {**asked, "auth": None, "root_path": None, "mcp": False}


def test_rooms_of_their_own_get_the_rest_of_the_line(monkeypatch):
    import types

    import typer

    inner = typer.Typer()

    @inner.command()
    def go(name: str, times: int = 1) -> None:
        typer.echo(f"went {name} {times}")
        raise typer.Exit(3)

    room = types.SimpleNamespace(app=inner)
    monkeypatch.setattr("vlmforensics.cli.commands.import_module", lambda name: room)
    monkeypatch.setattr("vlmforensics.cli.commands.find_spec", lambda name: object())
    result = run(app, ["finetune", "far", "--times", "2"])
    assert (result.stdout.strip(), result.exit_code) == ("went far 2", 3)
    assert run(app, ["finetune", "--nonsense"]).exit_code == 2
    assert "--times" in run(app, ["finetune", "--help"]).stdout
    monkeypatch.setattr("vlmforensics.cli.commands.find_spec", lambda name: None)
    missing = run(app, ["eval", "all"])
    assert missing.exit_code == 2
    assert "no eval commands" in missing.stderr
