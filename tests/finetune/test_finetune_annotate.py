"""The data engine against a real HTTP server on the loopback interface that answers by script."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("httpx")

from vlmforensics.clues import catalogue
from vlmforensics.errors import RemoteError, SettingsError
from vlmforensics.finetune import annotate as engine
from vlmforensics.finetune.annotators import (
    Annotator,
    AnnotatorSettings,
    AnswerCache,
    read_annotators,
    read_reply,
)
from vlmforensics.finetune.compose import FAKECLUE, Answered, compose
from vlmforensics.finetune.journal import append, read_journal
from vlmforensics.finetune.measurements import Measurements, measurements
from vlmforensics.finetune.samples import read_samples
from vlmforensics.imaging import decode_trusted
from vlmforensics.settings import Settings
from vlmforensics.types import Evidence
from vlmforensics.vlm.remote import RemoteBackbone

ALLOWED = Settings(remote_enabled=True, sandbox=False)
GHOST = Evidence("jpeg_ghost", "A part was saved at quality 71 before.", score=9.0)


class Server:
    """An annotator that answers each question by ``says(question, picture_is_blank)``."""

    def __init__(self, name, says):
        self.bodies, self.status = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(200, {"data": [{"id": name}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                if outer.status:
                    self.reply(outer.status.pop(0), {"error": "busy"})
                    return
                picture, text = body["messages"][0]["content"]
                pixels = decode_trusted(base64.b64decode(picture["image_url"]["url"].split(",")[1]))
                blank = float(pixels.std()) == 0
                asked = re.findall(r"^(\d+)\. (.*)$", text["text"], re.MULTILINE)
                lines = [f"{number}. {says(question, blank)}" for number, question in asked]
                usage = {"prompt_tokens": 1000, "completion_tokens": 10 * len(lines)}
                message = {"role": "assistant", "content": "Here you are:\n" + "\n".join(lines)}
                self.reply(200, {"choices": [{"message": message}], "usage": usage})

            def reply(self, status, content):
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def annotator(self, **facts):
        settings = AnnotatorSettings(address=self.address, **facts)
        return Annotator(RemoteBackbone.connect(self.address, ALLOWED, pause=0.01), settings)


@pytest.fixture
def serve():
    servers = []

    def start(name, says):
        servers.append(Server(name, says))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def pictures(fakes, tmp_path):
    return [
        engine.Labelled(fakes.write(tmp_path / f"{n}.png", n, width=40, height=30), label, "set", "scene")
        for n, label in enumerate(("real", "synthetic", "tampered"))
    ]


def measuring(*evidence, file=None, calls=None):
    def examine(path):
        if calls is not None:
            calls.append(path)
        return list(evidence)

    return Measurements(examine, "test", file)


def no(question, blank):
    return "no - nothing unusual"


def yes_to(*fragments):
    def says(question, blank):
        if blank:
            return "unclear"
        return "yes - the shadows fall to both sides" if any(f in question for f in fragments) else "no"

    return says


# ---------------------------------------------------------------- asking


def test_requests_do_not_depend_on_label_name_or_source(fakes, serve, tmp_path):
    server = serve("a", no)
    twins = [
        engine.Labelled(fakes.write(tmp_path / name, 5), label, source, "scene")
        for name, label, source in (
            ("fake/midjourney_1.png", "synthetic", "mj"), ("real/x.png", "real", "flickr"),
        )
    ]  # fmt: skip
    for number, twin in enumerate(twins):
        run = engine.Engine(measuring(), [server.annotator()], AnswerCache(tmp_path / f"{number}.jsonl"))
        list(run.run([twin]))
    half = len(server.bodies) // 2
    assert half >= 2
    assert server.bodies[:half] == server.bodies[half:]
    sent = json.dumps([body["messages"][0]["content"][1] for body in server.bodies]).lower()
    for word in ("midjourney", "flickr", "synthetic", "tampered"):
        assert word not in sent


def test_votes_decide_and_ties_are_left_out(serve, pictures, tmp_path):
    servers = [
        serve("a", yes_to("cast shadows point", "lack a shadow")),
        serve("b", yes_to("cast shadows point", "a reflection")),
        serve("c", lambda question, blank: "unclear" if "lack a shadow" in question else "no"),
    ]
    run = engine.Engine(measuring(GHOST), [s.annotator() for s in servers], AnswerCache(tmp_path / "a.jsonl"))
    samples = list(run.run(pictures))
    answers = {clue.id: clue for clue in samples[1].clues}
    assert answers["shadows-disagree"].answer is True
    assert answers["shadows-disagree"].by.startswith("a at http://127.0.0.1")
    assert "shadow-missing" not in answers  # one yes, one no, one unclear
    assert answers["horizon-broken"].answer is False
    assert answers["jpeg-ghost-part"].by == "measured:jpeg_ghost"
    assert "The shadows fall to both sides." in samples[1].answer
    record = run.record()
    assert record["no_majority"] == {"shadow-missing": 3}
    assert 0 < record["pairwise_agreement"] < 1
    assert record["observed_answers"]["shadows-disagree"] == 3


def test_what_is_affirmed_of_a_blank_picture_is_not_asked(serve, pictures, tmp_path):
    server = serve("parrot", lambda question, blank: "yes - of course it does")
    run = engine.Engine(measuring(GHOST), [server.annotator()], AnswerCache(tmp_path / "a.jsonl"))
    samples = list(run.run(pictures))
    assert {clue.by for sample in samples for clue in sample.clues} == {"measured:jpeg_ghost"}
    (affirmed,) = run.record()["yes_to_a_blank_picture"].values()
    assert set(affirmed) == {clue.id for clue in catalogue().observable("scene")}


def test_a_run_goes_on_where_it_stopped_and_nobody_pays_twice(serve, pictures, tmp_path):
    server = serve("a", yes_to("cast shadows point"))
    calls = []

    def begin():
        kept = AnswerCache(tmp_path / "answers.jsonl")
        measured = measuring(GHOST, file=tmp_path / "evidence.jsonl", calls=calls)
        return engine.Engine(measured, [server.annotator()], kept)

    whole = [next(iter(begin().run(pictures)))]
    asked, examined = len(server.bodies), len(calls)
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"annotator": "a", "sha2')  # torn by a crash
    whole = list(begin().run(pictures))
    assert len(calls) == 3
    assert examined == 1
    again = len(server.bodies)
    assert again > asked
    run = begin()
    assert list(run.run(pictures)) == whole
    assert len(server.bodies) == again
    assert run.record()["cost"] == 0
    assert run.record()["observed_answers"]["shadows-disagree"] == 3


def test_cost_is_counted_and_bounded(serve, pictures, tmp_path):
    server = serve("a", no)
    prices = {"price_in": 2.0, "price_out": 10.0}
    cache = AnswerCache(tmp_path / "a.jsonl")
    run = engine.Engine(measuring(), [server.annotator(**prices)], cache, budget=0.005)
    with pytest.raises(engine.BudgetSpent, match=r"0\.005"):
        list(run.run(pictures))
    (facts,) = run.record()["annotators"]
    requests = facts["requests"]
    assert facts["tokens_read"] == 1000 * requests
    assert facts["cost"] == pytest.approx(1e-6 * (2 * facts["tokens_read"] + 10 * facts["tokens_written"]))
    assert 0.005 <= facts["cost"] < 0.005 + 0.0029
    more = engine.Engine(measuring(), [server.annotator(**prices)], cache, budget=10)
    assert len(list(more.run(pictures))) == 3
    assert len(server.bodies) == requests + more.record()["annotators"][0]["requests"]


def test_busy_servers_are_tried_again_and_failures_are_asked_next_time(serve, pictures, tmp_path):
    server = serve("a", no)
    server.status = [429, 503]
    cache = AnswerCache(tmp_path / "a.jsonl")
    run = engine.Engine(measuring(), [server.annotator()], cache)
    first = next(iter(run.run(pictures[:1])))
    assert len(first.clues) == len(catalogue().observable("scene"))
    server.status = [400]
    run = engine.Engine(measuring(), [annotator := server.annotator()], cache)
    annotator.asked = 1
    (second,) = run.run(pictures[1:2])
    assert run.record()["failed_requests"] == 1
    assert len(second.clues) == len(first.clues) - engine.BATCH
    run = engine.Engine(measuring(), [server.annotator()], cache)
    (second,) = run.run(pictures[1:2])
    assert len(second.clues) == len(first.clues)


def test_a_server_that_never_answers_ends_the_run(serve, pictures, tmp_path):
    server = serve("a", no)
    server.status = [401]
    run = engine.Engine(measuring(), [server.annotator()], AnswerCache(tmp_path / "a.jsonl"))
    with pytest.raises(RemoteError, match="VLMF_REMOTE_KEY"):
        list(run.run(pictures))


def test_pace_is_kept():
    class Still:
        name = "still"

        def complete(self, pixels, text, *, max_new_tokens):
            return "1. no", 0, 0

    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    settings = AnnotatorSettings(address="http://x/v1", requests_per_minute=30)
    annotator = Annotator(Still(), settings, clock=lambda: now[0], sleep=sleep)
    for _ in range(4):
        annotator.ask(None, [catalogue()["text-garbled"]])
        now[0] += 0.5
    assert slept == pytest.approx([1.5, 1.5, 1.5])


@pytest.mark.parametrize(
    ("reply", "votes", "seen"),
    [
        ("1. yes - the left hand has six fingers\n2. No.", ["yes", "no"], "The left hand has six fingers."),
        ("**1.** Unclear — there is no hand\n**2)** YES", ["unclear", "yes"], "There is no hand."),
        ("1: no, all fingers are natural\n2: maybe", ["no", "unclear"], "All fingers are natural."),
        ("yes and no", ["unclear", "unclear"], ""),
        ("2. yes\n2. no", ["unclear", "unclear"], ""),
        ("", ["unclear", "unclear"], ""),
        ("7. yes - a seventh answer", ["unclear", "unclear"], ""),
    ],
)
def test_replies_are_read_line_by_line(reply, votes, seen):
    answers = read_reply(reply, 2)
    assert [answer.vote for answer in answers] == votes
    assert answers[0].seen == seen


def test_a_single_answer_needs_no_number():
    (answer,) = read_reply("Yes, the shadows cross.", 1)
    assert (answer.vote, answer.seen) == ("yes", "The shadows cross.")


# ---------------------------------------------------------------- words


def item(name, answer, by="a"):
    clue = catalogue()[name]
    said = "A part was saved at quality 71 before." if name == "jpeg-ghost-part" else clue.sentence(answer)
    return Answered(clue, answer, by, said)


def test_explanations_hold_what_speaks_for_the_label_and_nothing_else():
    answered = [
        item("jpeg-ghost-part", True), item("shadows-disagree", True), item("text-garbled", True),
        item("horizon-broken", False), item("jpeg-saved-twice", True),
    ]  # fmt: skip
    tampered = compose("tampered", answered, key="k")
    assert "quality 71" in tampered
    assert catalogue()["shadows-disagree"].present in tampered
    assert "garbled" not in tampered  # speaks for synthetic alone
    assert catalogue()["horizon-broken"].absent not in tampered
    assert "saved as JPEG twice" not in tampered  # weighs nothing
    real = compose("real", answered, key="k")
    assert catalogue()["horizon-broken"].absent in real
    assert real.endswith("One finding points the other way: a part was saved at quality 71 before.")
    assert compose("synthetic", [], key="k").endswith("None of the clues that were looked for shows it.")
    assert "shadow" not in compose("tampered", answered, key="k", without=frozenset({"shadows-disagree"}))


def test_answers_begin_with_the_sentence_that_is_scored_in_use():
    from vlmforensics.vlm.profiles import PROFILES

    explained = PROFILES["explained"]
    for word, (label,) in explained.words.items():
        assert compose(label, [], key="k").startswith(f"{explained.prefix}{word}.")
    answered = [item(clue.id, True) for clue in catalogue().observable("scene")]
    texts = {compose("synthetic", answered, key=str(n)) for n in range(30)}
    assert len(texts) > 25
    assert texts == {compose("synthetic", answered, key=str(n)) for n in range(30)}


def test_betrayed_labels_and_unsupported_claims_are_replaced_and_counted(serve, pictures, tmp_path):
    says = {
        "cast shadows point": "yes - the shadows disagree because the image is labelled fake",
        "lack a shadow": "yes - error level analysis shows the shadow is 37% off",
        "a reflection": "yes - zebras",
        "vanishing point": "yes - the edges of the roof meet in two points",
    }

    def answer(question, blank):
        return (
            "unclear" if blank else next((v for k, v in says.items() if k.lower() in question.lower()), "no")
        )

    server = serve("a", answer)
    run = engine.Engine(measuring(), [server.annotator()], AnswerCache(tmp_path / "a.jsonl"))
    sample = list(run.run(pictures))[2]
    record = run.record()
    assert record["label_leaks"] == 3
    assert record["observations_replaced"]["tool"] == 3
    assert record["observations_replaced"]["measurement"] == 3
    assert "labelled" not in sample.answer
    assert "37" not in sample.answer
    supported = {clue.id for clue in sample.clues if clue.answer}
    assert supported >= {"shadows-disagree", "shadow-missing", "vanishing-points-disagree"}
    if "two points" not in sample.answer:  # at most five supporting sentences are told
        assert len(sample.answer.split(". ")) >= 5


# ---------------------------------------------------------------- files and commands


def test_annotators_come_from_a_file(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text(
        '[[annotator]]\naddress = "https://host/v1#big"\nkey_variable = "HOST_KEY"\nprice_in = 0.5\n'
    )
    (one,) = read_annotators(file)
    assert (one.address, one.key_variable, one.price_in) == ("https://host/v1#big", "HOST_KEY", 0.5)
    for text, says in (
        ('[[annotator]]\naddress = "ftp://host"\n', "address"),
        ('[[annotator]]\naddress = "https://h/v1"\nkey = "secret"\n', "key"),
        ('address = "https://h/v1"\n', "annotator"),
        ("[[annotator]\n", "can't read"),
    ):
        file.write_text(text)
        with pytest.raises(SettingsError, match=says):
            read_annotators(file)


def test_pictures_leave_the_machine_only_where_that_is_allowed(serve):
    with pytest.raises(SettingsError, match="leave this machine"):
        Annotator.connect(AnnotatorSettings(address=serve("a", no).address), Settings())


def test_command_writes_samples_fakeclue_and_report(fakes, serve, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from vlmforensics.finetune.cli import app

    monkeypatch.setenv("VLMF_REMOTE_ENABLED", "1")
    server = serve("a", no)
    rows = []
    for n, label in enumerate(("real", "synthetic")):
        path = fakes.write(tmp_path / f"{n}.jpg", n, width=300, height=240)
        sha = engine.digest(path)
        rows.append({"path": path.name, "label": label, "source": f"s{n}", "sha256": sha})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "train.jsonl"
    command = [
        "annotate", str(tmp_path), "--out", str(out), "--annotator", server.address,
        "--fakeclue", str(tmp_path / "train.json"), "--signals-only",
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    samples = list(read_samples(out))
    assert [sample.label for sample in samples] == ["real", "synthetic"]
    assert {clue.by.split(":")[0] for clue in samples[0].clues} == {
        "measured",
        f"a at {server.address}".split(":")[0],
    }
    told = json.loads((tmp_path / "train.json").read_text())
    assert [record["label"] for record in told] == [1, 0]
    assert told[0]["conversations"][1]["value"].startswith(FAKECLUE["real"])
    assert told[1]["conversations"][1]["value"].startswith("This is a fake image.")
    report = json.loads((tmp_path / "train.report.json").read_text())
    assert report["pictures"] == 2
    asked = len(server.bodies)
    assert CliRunner().invoke(app, command).exit_code == 0
    assert len(server.bodies) == asked
    assert list(read_samples(out)) == samples


def test_a_picture_that_a_manifest_names_twice_is_taken_once(tmp_path):
    rows = [{"path": f"{n}.png", "label": "real", "source": "s", "sha256": "0" * 64} for n in range(2)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(engine.labelled_pictures(tmp_path)) == 1


def test_a_journal_goes_on_after_a_line_that_was_torn_within_a_character(tmp_path):
    file = tmp_path / "journal.jsonl"
    append(file, [{"said": "one\u2028line"}, {"said": "é"}])
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index("é".encode()) + 1])
    assert read_journal(file) == [{"said": "one\u2028line"}]
    append(file, [{"said": "é"}])
    assert file.read_bytes() == whole


def test_unreadable_pictures_are_told_and_left_out(pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    broken = engine.Labelled(tmp_path / "broken.png", "real")
    run = engine.Engine(measurements(None, Settings(sandbox=False), None, signals_only=True))
    assert [sample.label for sample in run.run([broken, pictures[0]])] == ["real"]
    assert "broken.png" in run.record()["unreadable"][0]


def test_evidence_of_another_setup_is_measured_again(pictures, tmp_path):
    file = tmp_path / "evidence.jsonl"
    calls = []
    for setup in ("one", "two", "two"):
        Measurements(lambda path: calls.append(path) or [GHOST], setup, file).of(pictures[0].image, "a" * 64)
    assert len(calls) == 2
