"""Serving: loopback by default, a password otherwise, and headers that keep the page to itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the ui extra is not installed")

import httpx

from vlmforensics.errors import SettingsError
from vlmforensics.settings import Settings
from vlmforensics.ui import serve
from vlmforensics.ui.app import build_app
from vlmforensics.ui.server import is_loopback, launch, parse_auth
from vlmforensics.ui.state import Sessions


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_not_loopback(host):
    assert not is_loopback(host)


def test_other_hosts_need_a_password(monkeypatch):
    monkeypatch.delenv("VLMFORENSICS_AUTH", raising=False)
    with pytest.raises(SettingsError, match="auth"):
        serve(Settings(), "0.0.0.0", 0, assistant_loader=lambda: None)


@pytest.mark.parametrize("text", ["anna", "anna:", ":password1", "anna:short"])
def test_malformed_password(text):
    with pytest.raises(SettingsError, match="USER:PASSWORD"):
        parse_auth(text)


def test_password_may_hold_colons():
    assert parse_auth("anna:a:b:c:d:e") == ("anna", "a:b:c:d:e")
    assert parse_auth(None) is None


def test_page_and_headers(page):
    answer = httpx.get(page.url, trust_env=False)
    assert answer.status_code == 200
    assert '"title":"vlmforensics"' in answer.text.replace('": "', '":"')
    assert 'lang="en"' in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy.replace("https", "")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_foreign_name_for_this_address_is_refused(page):
    answer = httpx.get(page.url, headers={"Host": "example.org:7860"}, trust_env=False)
    assert answer.status_code == 421


@pytest.mark.parametrize("path", ["/etc/passwd", str(Path("pyproject.toml").resolve())])
def test_files_of_the_machine_are_not_served(page, path):
    answer = httpx.get(f"{page.url}gradio_api/file={path}", trust_env=False)
    assert answer.status_code == 403


def test_health(page):
    answer = httpx.get(f"{page.url}health", trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"


def test_pictures_are_shown_to_who_knows_their_id_only(page, report):
    session = page.sessions.get("tab-of-a-test")
    case_id = page.sessions.add("tab-of-a-test", report("splice.jpg"))
    address = f"{page.url}vf/{case_id}"
    assert httpx.get(f"{address}/whole", trust_env=False).content.startswith(b"\x89PNG")
    marks = httpx.get(f"{address}/marks?show=region,E2,nonsense", trust_env=False)
    assert marks.headers["content-type"] == "image/png"
    assert "no-store" in marks.headers["cache-control"]
    assert httpx.get(f"{address}/piece?x0=1&y0=1&x1=40&y1=30", trust_env=False).status_code == 200
    for wrong in ("x0=1&y0=1&x1=1&y1=30", "x0=a&y0=1&x1=2&y1=3", "", "x0=9999&y0=0&x1=10000&y1=5"):
        assert httpx.get(f"{address}/piece?{wrong}", trust_env=False).status_code == 400
    session.drop(case_id)
    assert httpx.get(f"{address}/whole", trust_env=False).status_code == 404
    assert httpx.get(f"{page.url}vf/{'x' * 16}/whole", trust_env=False).status_code == 404


def test_a_password_covers_the_pictures_too(fake_assistant, report, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    settings, sessions = Settings(), Sessions()
    blocks = build_app(lambda: fake_assistant(settings), settings, sessions)
    try:
        url = launch(blocks, settings, port=0, auth=("anna", "long enough"))
        sessions.get("tab")
        case_id = sessions.add("tab", report("splice.jpg"))
        with httpx.Client(trust_env=False) as client:
            assert client.get(f"{url}vf/{case_id}/whole").status_code == 401
            assert client.get(f"{url}health").status_code == 200
            assert (
                client.post(f"{url}login", data={"username": "anna", "password": "wrong"}).status_code == 400
            )
            client.post(f"{url}login", data={"username": "anna", "password": "long enough"})
            assert client.get(f"{url}vf/{case_id}/whole").status_code == 200
    finally:
        blocks.close(verbose=False)


def test_monitoring_is_off(page):
    assert httpx.get(f"{page.url}monitoring", trust_env=False).status_code in {403, 404}


SCRIPT = """
import sys, time
from vlmforensics.settings import Settings
from vlmforensics.ui import serve
def loader():
    time.sleep(120)
serve(Settings(), "127.0.0.1", 0, assistant_loader=loader)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_page_answers_before_the_model_is_there_and_ctrl_c_ends_it(tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    env.pop("GRADIO_TEMP_DIR", None)
    running = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path
    )
    try:
        line = next(line for line in running.stderr if "http://" in line)
        url = re.search(r"http://\S+", line).group()
        assert "Loading the model" in httpx.get(url, trust_env=False, timeout=45).text
        assert len(list(tmp_path.glob("vlmforensics-ui-*"))) == 1
        running.send_signal(signal.SIGINT)
        assert running.wait(45) == 0  # the loader would sleep for longer
        assert "Traceback" not in running.stderr.read()
        assert not list(tmp_path.glob("vlmforensics-ui-*"))
    finally:
        running.kill()
        running.wait()
