"""The remote backbone against a real HTTP server on the loopback interface that answers by script."""

import base64
import json
import math
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

httpx = pytest.importorskip("httpx")

from vlmforensics.errors import RemoteError, SettingsError  # noqa: E402
from vlmforensics.imaging import decode_trusted, to_png  # noqa: E402
from vlmforensics.settings import Settings  # noqa: E402
from vlmforensics.vlm.remote import RemoteBackbone  # noqa: E402

ALLOWED = Settings(remote_enabled=True)


def completion(text, rows=None):
    logprobs = {"content": rows} if rows is not None else None
    return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": logprobs}]}


def row(token, **alternatives):
    found = [{"token": name, "logprob": math.log(p)} for name, p in alternatives.items()]
    return {"token": token, "logprob": math.log(alternatives[token]), "top_logprobs": found}


REAL = completion("real", [row("real", real=0.9, synthetic=0.1)])


class Server:
    """Answers each POST with the next of ``answers``: a dict, (status, text), raw lines for a stream, or 'hang up'."""

    def __init__(self):
        self.answers, self.requests, self.headers = [], [], []
        self.models = [{"id": "tiny-vlm"}]
        self.retry_after, self.busy, self.most, self.lock = "", 0, 0, threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(200, json.dumps({"data": outer.models}))

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(json.loads(body))
                outer.headers.append(dict(self.headers))
                with outer.lock:
                    answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if answer == "hang up":
                    self.connection.close()
                elif answer == "sleep":
                    time.sleep(0.5)
                elif answer == "slow":
                    with outer.lock:
                        outer.busy += 1
                        outer.most = max(outer.most, outer.busy)
                    time.sleep(0.05)
                    with outer.lock:
                        outer.busy -= 1
                    self.reply(200, json.dumps(completion("real", [row("real", real=1.0)])))
                elif isinstance(answer, dict):
                    self.reply(200, json.dumps(answer))
                elif isinstance(answer, tuple):
                    self.reply(*answer)
                else:
                    self.reply(200, "".join(f"{line}\n\n" for line in answer), "text/event-stream")

            def reply(self, status, text, kind="application/json"):
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if outer.retry_after:
                    self.send_header("Retry-After", outer.retry_after)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def backbone(server):
    made = RemoteBackbone.connect(server.address, ALLOWED, pause=0.01)
    yield made
    made.close()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_the_picture_travels_as_bare_pixels_and_the_key_as_a_header(server, pixels, monkeypatch):
    monkeypatch.setenv("VLMF_REMOTE_KEY", "sesame")
    server.answers = [REAL]
    backbone = RemoteBackbone.connect(server.address, ALLOWED)
    backbone.look(pixels, ("The blending detector gives 0.12 out of 1.",))
    content = server.requests[0]["messages"][0]["content"]
    url = content[0]["image_url"]["url"]
    sent = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    assert np.array_equal(decode_trusted(sent), pixels)
    assert b"tEXt" not in sent
    assert b"eXIf" not in sent
    assert "0.12 out of 1" in content[1]["text"]
    assert server.headers[0]["Authorization"] == "Bearer sesame"
    assert "sesame" not in json.dumps(server.requests[0])
    assert "sesame" not in backbone.name
    assert server.requests[0]["model"] == "tiny-vlm"


def test_big_pictures_are_reduced_before_they_travel(server, backbone):
    server.answers = [REAL]
    backbone.look(np.zeros((100, 3000, 3), np.uint8))
    url = server.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert decode_trusted(base64.b64decode(url.split(",")[1])).shape == (45, 1344, 3)


def test_labels_come_from_token_probabilities(server, backbone, pixels):
    rows = [row("Syn", Syn=0.7, real=0.2, Real=0.05, tam=0.04)]
    server.answers = [completion("Synthetic", rows)]
    real, synthetic, tampered = backbone.look(pixels).log_probs
    assert math.exp(synthetic) == pytest.approx(0.7 / 0.99)
    assert math.exp(real) == pytest.approx(0.25 / 0.99)
    assert math.exp(tampered) == pytest.approx(0.04 / 0.99)


def test_words_before_the_label_are_passed_over(server, backbone, pixels):
    rows = [row("**", **{"**": 0.9, "real": 0.1}), row("tam", tam=0.6, real=0.4)]
    server.answers = [completion("**tampered**", rows)]
    assert math.exp(backbone.look(pixels).log_probs[2]) == pytest.approx(0.6, abs=0.01)


def test_without_probabilities_several_answers_are_drawn_and_counted(server, backbone, pixels):
    server.answers = [
        completion("Tampered."),
        *map(completion, ["tampered", "Tampered", "real", "tampered", "hm"]),
    ]
    look = backbone.look(pixels)
    assert sorted(np.exp(look.log_probs)) == pytest.approx([1 / 15, 4 / 15, 10 / 15])
    assert look.means == "label word in 4 sampled answers"
    drawn = server.requests[1:]
    assert [body["seed"] for body in sorted(drawn, key=lambda body: body["seed"])] == [0, 1, 2, 3, 4]
    assert all(body["temperature"] == 1.0 and "logprobs" not in body for body in drawn)
    server.answers = [completion("real")]
    backbone.look(pixels)
    assert len(server.requests) == 11  # it is known now that asking for probabilities is in vain


def test_a_server_that_refuses_the_question_for_probabilities_is_asked_without(server, backbone, pixels):
    refusal = (422, json.dumps({"detail": "Unsupported fields in the request: {'logprobs'}"}))
    server.answers = [refusal, completion("synthetic")]
    assert np.exp(backbone.look(pixels).log_probs[1]) == pytest.approx(16 / 18)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "text", ["I can't tell.", "real or synthetic", "not real", "unreal", "", "It is fake"]
)
def test_an_unparsable_answer_is_an_error_never_a_guess(server, backbone, pixels, text):
    server.answers = [completion(text)]
    with pytest.raises(RemoteError, match="names no label") as caught:
        backbone.look(pixels)
    assert caught.value.code == "model.unparsable"


def test_told_probabilities_without_a_label_are_an_error_too(server, backbone, pixels):
    server.answers = [completion("I can", [row("I", I=0.9, real=0.1), row(" can", **{" can": 1.0})])]
    with pytest.raises(RemoteError, match="names no label"):
        backbone.look(pixels)
    assert len(server.requests) == 1


@pytest.mark.parametrize("trouble", [(429, "slow down"), (500, "oops"), "hang up"])
def test_passing_trouble_is_retried(server, backbone, pixels, trouble):
    server.answers = [trouble, trouble, REAL]
    assert backbone.look(pixels).log_probs is not None
    assert len(server.requests) == 3


def test_lasting_trouble_ends_in_an_error(server, backbone, pixels):
    server.answers = [(503, "no")]
    with pytest.raises(RemoteError, match="HTTP 503"):
        backbone.look(pixels)
    assert len(server.requests) == 4


def test_a_silent_server_is_given_up_after_a_while(server, pixels, monkeypatch):
    impatient = replace(ALLOWED, remote_seconds=0.2)
    server.answers = ["sleep"]
    with pytest.raises(RemoteError, match="no answer in time"):
        RemoteBackbone.connect(server.address + "#tiny-vlm", impatient, pause=0.01).look(pixels)


def test_no_more_requests_at_once_than_allowed(server, pixels):
    server.answers = ["slow"]
    backbone = RemoteBackbone.connect(server.address, replace(ALLOWED, remote_parallel=2), pause=0.01)
    looks = backbone.look_many([pixels] * 6, [()] * 6)
    assert len(looks) == 6
    assert server.most == 2


def test_a_key_that_the_server_repeats_is_not_passed_on(server, pixels, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("VLMF_REMOTE_KEY", "sesame")
    server.answers = [(400, "you sent Bearer sesame")]
    with pytest.raises(RemoteError, match="you sent Bearer …") as caught:
        RemoteBackbone.connect(server.address, ALLOWED).look(pixels)
    assert "sesame" not in repr(caught.value.__dict__) + caplog.text


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, "who?"), "VLMF_REMOTE_KEY"),
        ((400, "bad picture"), "bad picture"),
        ((200, "<html>"), "not JSON"),
        ((200, "[1]"), "not a JSON object"),
        ({"choices": []}, "not a chat completion"),
        ({"choices": [{"message": None}]}, "not a chat completion"),
        ((302, ""), "HTTP 302"),
    ],
)
def test_wrong_answers_are_errors_at_once(server, backbone, pixels, answer, says):
    server.answers = [answer]
    with pytest.raises(RemoteError, match=says):
        backbone.look(pixels)
    assert len(server.requests) == 1


def event(text, finish=None):
    return "data: " + json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}]})


def test_narration_streams_and_a_repeated_prefix_is_dropped(server, backbone, pixels):
    server.answers = [
        REAL,
        [event("The pic"), event("ture is"), event(" fine."), "data: [DONE]"],
    ]
    look = backbone.look(pixels)
    assert list(backbone.narrate(look, "Explain.", prefix="The picture")) == [" is", " fine."]
    said = server.requests[1]["messages"][0]["content"][1]["text"]
    assert "Explain." in said
    assert "The picture" in said


def test_a_reply_without_the_prefix_is_passed_on_whole(server, backbone, pixels):
    server.answers = [REAL, [event("Well, "), event("it is fine.", "stop")]]
    assert "".join(backbone.narrate(backbone.look(pixels), "Go.", prefix="The")) == "Well, it is fine."


def test_a_broken_stream_is_an_error_after_what_came(server, backbone, pixels):
    server.answers = [REAL, [event("Half a")]]
    pieces = backbone.narrate(backbone.look(pixels), "Go.")
    assert next(pieces) == "Half a"
    with pytest.raises(RemoteError, match="broke off"):
        next(pieces)


def test_a_stream_that_does_not_begin_is_asked_for_again(server, backbone, pixels):
    server.answers = [REAL, (503, "busy"), (429, "busy"), [event("Fine.", "stop")]]
    assert "".join(backbone.narrate(backbone.look(pixels), "Go.")) == "Fine."
    assert len(server.requests) == 4


def test_a_stream_stops_when_told(server, backbone, pixels):
    server.answers = [REAL, [event("One"), event(" two"), event(" three", "stop")]]
    seen = []
    for piece in backbone.narrate(backbone.look(pixels), "Go.", stop=lambda: len(seen) > 0):
        seen.append(piece)
    assert seen == ["One"]


def test_several_models_must_be_picked_from(server):
    server.models = [{"id": "one"}, {"id": "two"}]
    with pytest.raises(RemoteError, match="one, two"):
        RemoteBackbone.connect(server.address, ALLOWED)
    assert RemoteBackbone.connect(server.address + "#two", ALLOWED).model == "two"


@pytest.mark.parametrize("address", ["http://user:key@host/v1", "https://host/v1?key=1", "http:///v1"])
def test_addresses_that_carry_keys_are_refused(address):
    with pytest.raises(SettingsError):
        RemoteBackbone.connect(address, ALLOWED)


def test_offline_refuses_other_machines():
    with pytest.raises(SettingsError, match="offline"):
        RemoteBackbone.connect("https://example.org/v1", Settings(remote_enabled=True, offline=True))


def test_yes_and_no_come_from_token_probabilities(server, backbone, pixels):
    server.answers = [
        completion("Yes", [row("Yes", Yes=0.5, yes=0.1, No=0.2, maybe=0.2)]),
        completion("no", [row(" ", **{" ": 1.0}), row("no", no=0.9, yes=0.1)]),
    ]
    found = backbone.yes_no(pixels, ["Is it odd?", "Is it even?"])
    assert found == pytest.approx([math.log(0.6 / 0.2), math.log(0.1 / 0.9)])
    assert server.requests[0]["top_logprobs"] == 20
    assert server.requests[0]["messages"][0]["content"][1]["text"].startswith("Is it odd?")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (completion("Yes."), "model.logprobs"),
        (completion("Well", [row("Well", Well=0.9, So=0.1)]), "model.unparsable"),
    ],
)
def test_yes_and_no_are_never_read_from_text(server, backbone, pixels, answer, code):
    server.answers = [answer]
    with pytest.raises(RemoteError) as error:
        backbone.yes_no(pixels, ["Is it odd?"])
    assert error.value.code == code


def test_complete_counts_tokens_and_sends_the_text_alone(server, backbone, pixels):
    server.answers = [completion("1. yes") | {"usage": {"prompt_tokens": 321, "completion_tokens": 4}}]
    assert backbone.complete(pixels, "1. Is it odd?", max_new_tokens=20) == ("1. yes", 321, 4)
    (message,) = server.requests[0]["messages"]
    assert message["content"][1] == {"type": "text", "text": "1. Is it odd?"}


def test_a_server_may_ask_for_a_pause_but_not_for_hours(server, backbone, pixels, monkeypatch):
    from vlmforensics.vlm import remote

    waits = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    monkeypatch.setattr(remote, "_wait_of", lambda response: 7.5)
    server.answers = [(429, "slow down"), completion("1. no")]
    assert backbone.complete(pixels, "1. Is it odd?", max_new_tokens=20)[0] == "1. no"
    assert waits == [7.5]
    monkeypatch.undo()
    header = httpx.Response(429, headers={"Retry-After": "3600"})
    with pytest.raises(RemoteError, match="3600 s"):
        remote._wait_of(header)
    assert remote._wait_of(httpx.Response(429, headers={"Retry-After": "12"})) == 12
    assert remote._wait_of(httpx.Response(429, headers={"Retry-After": "Wed, 21 Oct 2026"})) == 0


def test_each_annotator_may_have_its_own_key(server, pixels, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "open")
    server.answers = [(401, "who are you")]
    made = RemoteBackbone.connect(server.address, ALLOWED, pause=0.01, key_variable="OTHER_KEY")
    with pytest.raises(RemoteError, match="set OTHER_KEY"):
        made.complete(pixels, "?", max_new_tokens=1)
    assert server.headers[-1]["Authorization"] == "Bearer open"
    made.close()


FAULTS = {
    "fine": ([REAL, [event("Nothing points to editing.", "stop")]], None),
    "busy": ([(429, "later"), REAL, [event("Fine.", "stop")]], None),
    "down": ([(500, "oops")] * 4, "HTTP 500"),
    "gone": (["hang up"] * 4, "after 4 attempts"),
    "late": (["sleep"] * 4, "no answer in time"),
    "html": ([(200, "<html>")], "not JSON"),
    "odd": ([{"choices": []}], "not a chat completion"),
    "mute": ([completion("real")] * 6 + [[event("Fine.", "stop")]], None),
    "cut": ([REAL, [event("Half a")]], None),
}


def test_nothing_is_lost_in_a_batch_behind_a_faulty_server(server, fakes, tmp_path):
    """Every picture gets its record: what the server spoils is a failure of one witness, told in words."""
    from vlmforensics.assistant import Assistant
    from vlmforensics.types import Report

    settings = replace(ALLOWED, remote_seconds=0.3, threads=1, sandbox=False)
    backbone = RemoteBackbone.connect(server.address, settings, pause=0.01)
    assistant = Assistant(backbone, [fakes.Brightness()], None, None, fakes.calibration(), settings)
    draw = np.random.default_rng(0)
    for name in FAULTS:
        (tmp_path / f"{name}.png").write_bytes(to_png(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    ledger = tmp_path / "records.jsonl"
    for name, (answers, says) in FAULTS.items():
        server.answers = [*answers]
        backbone._tells = True
        (report,) = assistant.examine_many([tmp_path / f"{name}.png"], resume=ledger, text="all")
        assert isinstance(report, Report), name
        assert report.explanation.text
        failures = {failure.source: failure.message for failure in report.failures}
        assert says in failures["vlm"] if says else not failures, name
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [Path(record["file"]).stem for record in records] == list(FAULTS)
    assert all(record["verdict"] and record["error"] is None for record in records)
    statement = next(
        e["statement"] for e in records[list(FAULTS).index("mute")]["evidence"] if e["source"] == "vlm"
    )
    assert "5 sampled answers" in statement
