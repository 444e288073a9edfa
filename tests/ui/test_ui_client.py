"""The endpoint, as programs use it: one record per picture, whatever is sent."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("gradio_client", reason="the ui extra is not installed")

import httpx
import jsonschema
from gradio_client import Client, handle_file

from vlmforensics.report import schema


@pytest.fixture(scope="module")
def client(page):
    return Client(page.url, verbose=False, analytics_enabled=False)


def test_only_one_endpoint_is_public(client):
    assert list(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == ["/examine"]


def test_a_picture_gives_a_valid_record(client, pictures):
    record = client.predict(handle_file(pictures("splice.jpg")), api_name="/examine")
    jsonschema.validate(record, schema())
    assert record["verdict"] == "tampered"
    assert record["file"] == "splice.jpg"
    assert record["format"] == "JPEG"
    assert "[E1" in record["explanation"]
    assert record["mask"]["size"] == [320, 480]


def test_the_explanation_may_be_left_out(client, pictures):
    record = client.predict(handle_file(pictures("plain.jpg")), False, api_name="/examine")
    assert record["explanation"] is None
    assert record["verdict"] == "real"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("text.jpg", b"This is a text file, whatever its name says. " * 20),
        ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
        ("empty.png", b""),
        ("cut.jpg", None),
    ],
)
def test_what_is_no_picture_gives_an_error_record(client, pictures, picture_bytes, name, data):
    path = pictures(name, picture_bytes[: len(picture_bytes) // 2] if data is None else data)
    record = client.predict(handle_file(path), api_name="/examine")
    jsonschema.validate(record, schema())
    assert record["verdict"] is None
    assert record["error"]["type"] != "Defect"
    assert "Traceback" not in json.dumps(record)


def test_an_oversized_file_is_refused_at_the_door(client, pictures, page):
    data = b"\xff\xd8\xff" + bytes(page.settings.max_bytes)
    answer = httpx.post(f"{page.url}gradio_api/upload", files={"files": ("large.jpg", data)}, trust_env=False)
    assert answer.status_code == 413
    with pytest.raises(ValueError, match="exceeds the maximum file size"):
        client.predict(handle_file(pictures("large.jpg", data)), api_name="/examine")


def _call(page, data):
    """What gradio's endpoint answers to hand-made input: the last event of its stream."""
    started = httpx.post(f"{page.url}gradio_api/call/examine", json={"data": data}, trust_env=False)
    assert started.status_code == 200
    event = started.json()["event_id"]
    answer = httpx.get(f"{page.url}gradio_api/call/examine/{event}", trust_env=False, timeout=30)
    return answer.text


def test_addresses_are_not_fetched(page, httpserver_that_must_stay_silent):
    for address in (httpserver_that_must_stay_silent.url, "https://example.org/a.jpg"):
        data = [{"path": address, "meta": {"_type": "gradio.FileData"}}, False]
        assert "event: error" in _call(page, data)
    assert httpserver_that_must_stay_silent.requests == []


def test_files_of_the_machine_are_not_read(page, pictures):
    data = [{"path": str(pictures("secret.jpg")), "meta": {"_type": "gradio.FileData"}}, False]
    assert "event: error" in _call(page, data)
    assert "event: error" in _call(page, ["/etc/passwd", False])


def test_callers_at_once_get_their_own_records_one_run_at_a_time(page, pictures):
    names = ["splice-1.jpg", "plain-2.jpg", "render-3.jpg", "unsure-4.jpg"]
    expected = ["tampered", "real", "synthetic", "inconclusive"]
    files = [pictures(name) for name in names]

    def examine(path):
        own = Client(page.url, verbose=False, analytics_enabled=False)
        return own.predict(handle_file(path), api_name="/examine")

    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(examine, files))
    assert [record["file"] for record in records] == names
    assert [record["verdict"] for record in records] == expected
    assert page.assistant.most_running == 1


@pytest.fixture
def httpserver_that_must_stay_silent():
    """A listener on loopback that remembers who called."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}/picture.jpg"
    server.requests = seen
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
