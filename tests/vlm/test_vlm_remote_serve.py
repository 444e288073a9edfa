"""The remote backbone against a real server: ``transformers serve`` with a tiny random LLaVA."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("torch")
for package in ("openai", "fastapi", "uvicorn"):
    pytest.importorskip(
        package, reason=f"transformers serve needs {package}: pip install 'transformers[serving]'"
    )

from vlmforensics.errors import RemoteError  # noqa: E402
from vlmforensics.settings import Settings  # noqa: E402
from vlmforensics.vlm.remote import RemoteBackbone  # noqa: E402

ALLOWED = Settings(remote_enabled=True, offline=True, remote_samples=3)
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def served(tmp_path_factory, families):
    folder = families.write("llava", tmp_path_factory.mktemp("served") / "tiny-llava")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()"]
    options = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path_factory.mktemp("log") / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, *options],
            stdout=out,
            stderr=out,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        try:
            for _ in range(600):
                if server.poll() is not None:
                    pytest.fail(f"the server ended: {log.read_text()[-800:]}")
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1#{folder}"
        finally:
            server.terminate()
            server.wait(20)


@pytest.mark.slow
def test_a_real_server_is_asked_without_log_probabilities_and_narrates(served):
    backbone = RemoteBackbone.connect(served, ALLOWED, pause=0.05)
    # random weights name no label: the request was understood, the answers are refused as what they are
    with pytest.raises(RemoteError, match="names no label or several in 3 samples") as caught:
        backbone.look(PIXELS)
    assert caught.value.code == "model.unparsable"
    assert not backbone._tells
    taught = RemoteBackbone.connect(served, ALLOWED, pause=0.05)
    taught._sampled = lambda messages: ((-0.1, -3.0, -3.0), 3)
    look = taught.look(PIXELS)
    first = "".join(taught.narrate(look, "Explain.", max_new_tokens=8))
    assert first
    assert "".join(taught.narrate(look, "Explain.", max_new_tokens=8)) == first
    listed = RemoteBackbone.connect(served.split("#")[0], replace(ALLOWED, remote_samples=2), pause=0.05)
    assert "tiny-llava" in listed.model
