"""What stands before gradio: closed routes, bounded and slow bodies, floods, guessed passwords, sessions apart."""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

import pytest

pytest.importorskip("gradio", reason="the ui extra is not installed")

import httpx

from vlmforensics.ui.guards import Guard, SlowLogin
from vlmforensics.ui.state import Sessions


def ask(
    app, path="/gradio_api/call/x", *, method="POST", pieces=(b"{}",), headers=(), who="1.2.3.4", pause=0.0
):
    """One request to an ASGI application: (status, body)."""
    sent = []
    waiting = [*pieces]

    async def receive():
        if not waiting:
            await asyncio.sleep(pause or 3600)
        piece = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": piece, "more_body": bool(waiting) or bool(pause)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers), "client": (who, 1)}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def reads_all(scope, receive, send):
    """An application that reads the whole body and says its length."""
    total, more = 0, True
    while more:
        message = await receive()
        total, more = total + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(total).encode()})


def guard(**limits):
    return Guard(reads_all, **{"max_upload": 1000, "max_body": 100, **limits})


def test_bodies_within_their_limits_pass():
    assert ask(guard(), pieces=(b"x" * 60, b"y" * 40)) == (200, b"100")
    assert ask(guard(), "/gradio_api/upload", pieces=(b"x" * 1000,)) == (200, b"1000")


@pytest.mark.parametrize("path", ["/gradio_api/call/x", "/gradio_api/upload", "/other"])
def test_bodies_over_their_limits_are_refused(path):
    size = 1001 if path.endswith("upload") else 101
    head = [(b"content-length", str(size).encode())]
    assert ask(guard(), path, headers=head, pieces=(b"x",))[0] == 413, "by what they declare"
    assert ask(guard(), path, pieces=(b"x" * 90,) * 12)[0] == 413, "by what comes"
    assert ask(guard(), path, headers=[(b"content-length", b"-5")])[0] == 413


def test_a_body_that_never_ends_is_ended():
    assert ask(guard(idle_seconds=0.05), pieces=(b"x",), pause=5)[0] == 408
    assert ask(guard(body_seconds=0.2, idle_seconds=9, max_body=10**9), pieces=(b"x",), pause=0.05)[0] == 408


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/vibe-edit", "/gradio_api/proxy=https://example.org/", "/gradio_api/process_recording",
        "/gradio_api/file=https://example.org/a.jpg", "/gradio_api/dev/reload", "/gradio_api/run-history/connect",
    ],
)  # fmt: skip
def test_routes_that_the_page_does_not_use_are_closed(page, path):
    assert ask(guard(), path, method="GET")[0] == 404
    assert httpx.post(f"{page.url}{path[1:]}", trust_env=False).status_code == 404
    assert httpx.get(f"{page.url}{path[1:]}", trust_env=False, follow_redirects=False).status_code == 404


def test_floods_are_bounded_and_leave_others_their_turn():
    gate = asyncio.Event()

    async def holds(scope, receive, send):
        await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    app = Guard(holds, max_upload=9, most=6, most_each=4)

    async def request(who):
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "path": "/", "method": "GET", "headers": [], "client": (who, 1)}
        await app(scope, receive, send)
        return sent[0]["status"]

    async def flood():
        running = [asyncio.create_task(request("1.1.1.1")) for _ in range(10)]
        await asyncio.sleep(0.01)
        other = [asyncio.create_task(request("2.2.2.2")) for _ in range(3)]
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(*running), await asyncio.gather(*other), await request("1.1.1.1")

    first, other, later = asyncio.run(flood())
    assert sorted(first) == [200] * 4 + [503] * 6
    assert sorted(other) == [200, 200, 503]
    assert later == 200, "places are given back"


def login(status):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status[0], "headers": []})

    return app


def test_each_wrong_password_doubles_the_wait_of_its_address():
    status, slept, now = [400], [], [0.0]

    async def sleep(seconds):
        slept.append(seconds)

    app = SlowLogin(login(status), sleep=sleep, clock=lambda: now[0])
    for _ in range(9):
        assert ask(app, "/login")[0] == 400
    assert slept == [1, 2, 4, 8, 16, 32, 60, 60]
    assert ask(app, "/login", who="5.6.7.8")[0] == 400
    assert len(slept) == 8, "another address waits for nobody else's guesses"
    now[0] = 901
    assert app.wait_of("1.2.3.4") == 0
    status[0] = 200
    assert ask(app, "/login", who="5.6.7.8")[0] == 200
    assert app.wait_of("5.6.7.8") == 0
    status[0] = 400
    ask(app, "/elsewhere", who="9.9.9.9")
    assert app.wait_of("9.9.9.9") == 0


def test_guesses_in_parallel_do_not_share_a_wait():
    entered = []

    async def sleep(seconds):
        entered.append(seconds)
        await asyncio.sleep(0.05)

    app = SlowLogin(login([400]), sleep=sleep)
    ask(app, "/login")

    async def both():
        async def request():
            sent = []

            async def send(message):
                sent.append(message)

            scope = {
                "type": "http",
                "path": "/login/",
                "method": "POST",
                "headers": [],
                "client": ("1.2.3.4", 1),
            }
            await app(scope, None, send)
            return sent[0]["status"]

        return await asyncio.gather(request(), request(), request())

    assert sorted(asyncio.run(both())) == [400, 429, 429]
    assert len(entered) == 1


def test_addresses_that_guess_are_kept_in_bounds(monkeypatch):
    monkeypatch.setattr(SlowLogin, "MOST", 10)
    app = SlowLogin(login([400]))
    for number in range(30):
        ask(app, "/login", who=f"10.0.0.{number}")
    assert len(app._wrong) == 10


def test_callers_without_a_key_share_no_session():
    sessions = Sessions()
    first = sessions.get("")
    first.messages.append({"role": "user", "content": "mine"})
    assert sessions.get("").messages == []
    assert len(sessions) == 0


# -- on the served page ----------------------------------------------------------------------------------------


def test_headers_on_every_answer(page):
    for path in ("", "config", "gradio_api/info", "nowhere", "gradio_api/vibe-edit"):
        answer = httpx.get(f"{page.url}{path}", trust_env=False)
        assert answer.headers["x-frame-options"] == "SAMEORIGIN", path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "camera=()" in answer.headers["permissions-policy"]


def test_other_origins_get_no_answer_they_may_read(page):
    for origin in ("https://example.org", "null"):
        answer = httpx.get(f"{page.url}config", headers={"Origin": origin}, trust_env=False)
        assert answer.headers.get("access-control-allow-origin") not in ("*", origin)


@pytest.mark.parametrize(
    "path",
    [
        "../../../../etc/passwd", "..%2f..%2f..%2fetc/passwd", "/etc/passwd", "//etc/passwd", "/proc/self/environ",
        "%2e%2e/%2e%2e/etc/passwd", "..\\..\\etc\\passwd", "file:///etc/passwd", "/tmp/../etc/passwd",
        "\u2025/etc/passwd", "/dev/zero", "~/.ssh/id_rsa", "/etc/passwd\x00.png",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "prefix", ["gradio_api/file=", "gradio_api/file/", "static/", "assets/", "theme.css/"]
)
def test_paths_lead_nowhere(page, prefix, path):
    host = urlparse(page.url)
    with socket.create_connection((host.hostname, host.port), timeout=20) as plain:
        # a raw request: clients tidy such paths before they send them
        target = f"/{prefix}{path}".encode().replace(b"\x00", b"%00")
        plain.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: plain.recv(65536), b""))
    assert b"root:" not in answer
    assert b" 200 " not in answer.split(b"\r\n", 1)[0], answer[:200]


def test_uploads_take_names_and_give_none_to_the_disk(page, picture_bytes):
    for name in (
        "../../evil.jpg",
        "/etc/cron.d/evil",
        "a/b\\c.jpg",
        "x" * 5000 + ".jpg",
        "\u202egpj.exe",
        "nul\x00.jpg",
    ):
        answer = httpx.post(
            f"{page.url}gradio_api/upload", files={"files": (name, picture_bytes)}, trust_env=False
        )
        if answer.status_code == 200:
            for path in answer.json():
                assert os.path.realpath(path).startswith(
                    os.path.realpath(os.environ["GRADIO_TEMP_DIR"]) + os.sep
                )


def test_several_pictures_together_have_a_limit(page):
    data = b"\xff\xd8\xff" + bytes(page.settings.max_bytes - 100)
    files = [("files", (f"{i}.jpg", data)) for i in range(12)]
    answer = httpx.post(f"{page.url}gradio_api/upload", files=files, trust_env=False, timeout=60)
    assert answer.status_code == 413


def test_a_hundred_clients_at_once_are_answered(page):
    def get(_):
        return httpx.get(f"{page.url}config", trust_env=False, timeout=60).status_code

    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(get, range(100)))
    assert set(found) <= {200, 503}
    assert found.count(200) >= 30
    assert httpx.get(page.url, trust_env=False).status_code == 200


def test_half_requests_do_not_stop_the_page(page):
    host = urlparse(page.url)
    held = [socket.create_connection((host.hostname, host.port)) for _ in range(50)]
    try:
        for plain in held:
            plain.sendall(
                b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nabc"
            )
        assert httpx.get(page.url, trust_env=False, timeout=30).status_code == 200
    finally:
        for plain in held:
            plain.close()


def test_pictures_of_one_session_are_not_another_s(page, pictures, fake_assistant):
    report = fake_assistant(page.settings).examine(pictures("a.jpg"), file="a.jpg")
    session = page.sessions.get("visitor")
    case = page.sessions.add("visitor", report)
    assert page.sessions.report("visitor", case) is report
    assert page.sessions.report("somebody", case) is None
    folder = session.folder
    (folder / "report.html").write_text("secret")
    assert folder.stat().st_mode & 0o077 == 0
    answer = httpx.get(f"{page.url}gradio_api/file={folder / 'report.html'}", trust_env=False)
    assert answer.status_code == 403
    assert "secret" not in answer.text
    session.drop(case)
