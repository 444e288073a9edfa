"""Fuzzing of the whole way in: bytes → case → metadata → (now and then) every signal, verdict and report.

Every input must end as a case or as an ``InputError``, within its limits. Inputs are numbered and made from the seed
and their number alone, so each can be made again by itself. A child process examines them one after another and says
so; where it dies or falls silent, the parent knows the number, notes it, and goes on behind it.

Inputs in order: the files made to do harm (``hostile_files``), every specimen cut at each 1 % of its length, then
mutations. Of the mutations one in sixteen is decoded in the sandbox, the rest in the child itself, so that a crash of a
decoder is the child's and can't be overlooked.
"""

from __future__ import annotations

import json
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmforensics.errors import InputError
from vlmforensics.eval.hostile_files import hostile_files
from vlmforensics.eval.mutations import cuts, mutate
from vlmforensics.imaging import open_case
from vlmforensics.imaging.specimens import specimens
from vlmforensics.report import to_html, to_markdown, to_record
from vlmforensics.report.text import software
from vlmforensics.settings import MIB, Settings
from vlmforensics.types import CaseImage, ModelInfo, Report

MEMORY = 3072 * MIB
"""Address space of the child, bytes; the decoding process has its own limit."""
SILENCE = 240.0
"""Seconds after which a silent child counts as hung; decoding alone may take up to 50 on a busy machine."""
WHOLE_EVERY = 16
"""Every so many numbers a decoded input goes through all signals, the verdict and the reports."""
SANDBOXED_EVERY = 16
HOSTILE_FILES = 252
"""How many ``hostile_files`` there are; a test counts them."""
HOSTILE = Settings(decode_seconds=5)
MUTATED = Settings(max_pixels=4_000_000, decode_seconds=5)
UNBOXED = Settings(max_pixels=4_000_000, sandbox=False)
_METADATA = ("generation_parameters", "editor_traces", "camera_exif", "c2pa", "jpeg_tables")


@dataclass(frozen=True)
class Input:
    """One file to try: its number, what it is, its bytes, and the whole file that it was cut from, if any."""

    number: int
    name: str
    data: bytes
    whole: str = ""

    @property
    def family(self) -> str:
        """First word of the name: a format, or the kind of harm."""
        return self.name.split(" ")[0].rstrip(":")


def inputs(seed: int, start: int, count: int) -> Iterator[Input]:
    """Inputs ``start`` to ``count`` (exclusive) of a seed."""
    for number, (name, data) in enumerate(
        hostile_files() if start < HOSTILE_FILES else ()
    ):  # making them takes a while
        if number >= count:
            return
        if start <= number:
            yield Input(number, name, data)
    number, known = HOSTILE_FILES, specimens()
    for name, size in cuts(known):
        if start <= number < count:
            yield Input(number, f"cut {name} at {size}", known[name][:size], name)
        number += 1
    names = list(known)
    for at in range(max(start, number), count):
        said, data = mutate(names, known, random.Random(f"{seed}/{at}"))  # noqa: S311 - numbers, no secrets
        yield Input(at, said, data)


class Examiner:
    """Takes inputs through the program and says how each ended."""

    def __init__(self) -> None:
        from vlmforensics.fusion import Calibration
        from vlmforensics.signals import load_sources

        self.sources = load_sources()
        self.calibration = Calibration.load(None)
        self.known = specimens()

    def outcome(self, item: Input) -> str:
        """``decoded``, ``judged``, an input error's code, or ``WRONG: …`` where something is."""
        hostile = ":" not in item.name and not item.whole
        settings = HOSTILE if hostile else MUTATED if item.number % SANDBOXED_EVERY == 1 else UNBOXED
        try:
            case = open_case(item.data, file=item.name, settings=settings)
        except InputError as error:
            return (
                error.code if error.message and error.file == item.name else "WRONG: an error without words"
            )
        except Exception as error:  # noqa: BLE001 - boundary: this is what is looked for
            return f"WRONG: open_case raised {type(error).__name__}: {error}"
        if item.whole and not self._same_picture(case, item.whole):
            return "WRONG: a cut file was decoded to another picture"
        try:
            return self._examine(case, whole=item.number % WHOLE_EVERY == 0)
        except Exception as error:  # noqa: BLE001 - boundary: as above
            return f"WRONG: a signal or report raised {type(error).__name__}: {error}"

    def _same_picture(self, case: CaseImage, whole: str) -> bool:
        return np.array_equal(case.upright, open_case(self.known[whole], settings=UNBOXED).upright)

    def _examine(self, case: CaseImage, *, whole: bool) -> str:
        from vlmforensics.fusion import judge

        whole = whole and case.upright.size < 3_000_000
        found = [e for s in self.sources if whole or s.name in _METADATA for e in s.examine(case)]
        if not whole:
            return "decoded"
        evidence, verdict = judge(found, self.calibration, alpha=0.01)
        report = Report(case, verdict, evidence, None, ModelInfo("none", "0", "", "", ""))
        json.dumps(to_record(report), allow_nan=False)
        page = to_html(report)
        to_markdown(report)
        return "WRONG: a script in the report" if "<script" in page.lower() else "judged"


def child(seed: int, start: int, count: int) -> None:
    """Examine inputs and write a line for each: number, milliseconds of processor time, peak MiB, outcome, name."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    examiner = Examiner()
    for item in inputs(seed, start, count):
        began = time.process_time()
        ended = examiner.outcome(item)
        spent = 1000 * (time.process_time() - began)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        sys.stdout.write(
            json.dumps([item.number, round(spent, 1), peak, ended, item.family, item.name[:200]]) + "\n"
        )
        sys.stdout.flush()


def run(count: int, seed: int, progress: Any = None, *, start: int = 0) -> dict[str, Any]:
    """Try inputs ``start`` to ``count`` (exclusive) and return the log as plain values."""
    tally: dict[str, Counter[str]] = defaultdict(Counter)
    times: list[float] = []
    wrong: list[str] = []
    slowest: list[tuple[float, str]] = []
    peak = 0
    began = time.monotonic()
    while start < count:
        silent, last = _Child(seed, start, count), start - 1
        for line in silent:
            last, spent, megabytes, ended, family, name = json.loads(line)
            key = ended.split(":")[0]
            tally[family][key] += 1
            times.append(spent)
            peak = max(peak, megabytes)
            slowest = sorted([*slowest, (spent, name)], reverse=True)[:10]
            if key in ("WRONG", "img.crash"):
                wrong.append(f"{last} ({name}): {ended}")
            if progress is not None and last % 1000 == 0:
                progress(f"{last:,} of {count:,}, {len(wrong)} wrong")
        start = last + 1
        if start < count:
            how = "fell silent" if silent.killed else f"died with {silent.process.returncode}"
            wrong.append(f"{start}: the process {how}: {silent.last_words()}")
            tally["?"]["hang" if silent.killed else "crash"] += 1
            start += 1
    return {
        "count": sum(sum(row.values()) for row in tally.values()),
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "outcomes": {family: dict(sorted(row.items())) for family, row in sorted(tally.items())},
        "wrong": wrong,
        "milliseconds": {
            "median": round(float(np.median(times)), 1),
            "p999": round(float(np.quantile(times, 0.999)), 1),
            "largest": [[round(spent), name] for spent, name in slowest],
        },
        "peak_mib": peak,
        "system": platform.system(),
        "software": {
            k: v for k, v in software().items() if k in ("python", "pillow", "numpy", "vlmforensics")
        },
    }


class _Child:
    """Lines of a child process; killed where it falls silent for too long."""

    def __init__(self, seed: int, start: int, count: int) -> None:
        code = f"from vlmforensics.eval.fuzz import child; child({seed}, {start}, {count})"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process; decoders write to it
        command = [sys.executable, "-X", "faulthandler", "-c", code]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        self.killed = False

    def __iter__(self) -> Iterator[str]:
        while True:
            clock = threading.Timer(SILENCE, self._kill)
            clock.daemon = True
            clock.start()
            line = self.process.stdout.readline() if self.process.stdout else ""
            clock.cancel()
            if not line.endswith("\n"):
                self.process.wait()
                return
            yield line

    def last_words(self) -> str:
        """The end of what the process wrote to its standard error."""
        self._errors.seek(0, 2)
        self._errors.seek(max(0, self._errors.tell() - 600))
        return " ".join(self._errors.read().decode("utf-8", "replace").split())

    def _kill(self) -> None:
        self.killed = True
        self.process.kill()


def write_page(result: dict[str, Any], file: Path) -> None:
    """Write the log of a run as the page of docs."""
    times = result["milliseconds"]
    lines = [
        "# Fuzzing: what was tried on the way in",
        "",
        f"`vlmforensics eval fuzz --count {result['count']} --seed {result['seed']}` made and tried "
        f"{result['count']:,} files in {result['seconds'] / 60:.0f} minutes ({result['system']}; "
        + ", ".join(f"{name} {version}" for name, version in result["software"].items())
        + ").",
        "",
        f"**{len(result['wrong'])} of them** ended otherwise than as a decoded picture or a typed refusal (a crash, a "
        "hang, another exception, a cut file decoded to another picture, a script in a report).",
        "",
    ]
    lines += [f"- {entry}" for entry in result["wrong"][:50]]
    lines += [
        "",
        f"Processor time of one input outside the decoding process: median {times['median']} ms, 99.9 % below "
        f"{times['p999']} ms. Peak memory of the examining process: {result['peak_mib']:,} MiB.",
        "",
        "The slowest:",
        "",
        *(f"- {spent:,} ms: {name}" for spent, name in times["largest"]),
        "",
        "| began as | inputs | decoded | refused | refusals, most frequent first |",
        "|---|---|---|---|---|",
    ]
    for family, row in result["outcomes"].items():
        good = row.get("decoded", 0) + row.get("judged", 0)
        codes = sorted(((n, k) for k, n in row.items() if k not in ("decoded", "judged")), reverse=True)
        named = ", ".join(f"`{code}` {n:,}" for n, code in codes[:6])
        lines.append(
            f"| {family} | {sum(row.values()):,} | {good:,} | {sum(row.values()) - good:,} | {named} |"
        )
    text = "\n".join(lines) + "\n"
    before = file.read_text(encoding="utf-8").partition(MARK)[2] if file.exists() else ""
    file.write_text(text + "\n" + MARK + (before or "\n"), encoding="utf-8")


MARK = "<!-- by hand from here on -->"
