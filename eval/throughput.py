"""What batches gain, as ratios of runs made one after the other on the same machine.

Absolute seconds depend on the machine and on what else it does; the ratios are what the engines are held to.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlmforensics.assistant import Assistant
from vlmforensics.batch import Inputs, Ledger, LoadWorker, Summary, default_workers, make_engine, run_batch
from vlmforensics.eval.sections import NETWORKS
from vlmforensics.imaging import encode
from vlmforensics.settings import Settings

TOKENS = 24
TOGETHER = 8


@dataclass(frozen=True)
class Ratio:
    """One line of the result.

    Attributes:
        name: what is compared.
        value: the ratio.
        target: what it should reach (``>=``) or keep under (``<=``); None where nothing is aimed at.
        at_least: which of the two.
        n: pictures, or tokens for the text.
        detail: the figures behind it.
    """

    name: str
    value: float
    target: float | None
    at_least: bool
    n: int
    detail: str

    @property
    def holds(self) -> bool | None:
        """True where the target is met, None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def __str__(self) -> str:
        figures = f"n = {self.n}; {self.detail}"
        if self.target is not None:
            sign, met = "≥" if self.at_least else "≤", "holds" if self.holds else "missed"
            figures = f"{sign} {self.target:g}: {met}; {figures}"
        return f"{self.name}: {self.value:.2f} ({figures})"


@dataclass(frozen=True)
class _Run:
    """Verdicts of some pictures.

    Attributes:
        seconds: a picture.
        chances: probabilities by file.
        networks: seconds a picture of the network stages; 0 where they weren't asked for.
    """

    seconds: float
    chances: dict[str, dict[str, float]]
    networks: float = 0.0


def measure(
    folder: Path,
    settings: Settings,
    *,
    pictures: int,
    ray: bool,
    memory: Sequence[int] = (),
    int8: bool = False,
) -> Iterator[Ratio]:
    """Yield the ratios as they are known.

    Args:
        folder: of pictures; the first ``pictures`` are used.
        settings: model, device.
        pictures: at least 3.
        ray: compare the Ray engine too.
        memory: two numbers of small pictures, between which memory should not grow; empty leaves this out.
        int8: compare the model in eight bits too (decision 0063).
    """
    jobs = list(itertools.islice(Inputs([folder]), pictures))
    assistant = Assistant.load(settings.model, settings=settings)
    for ready in (False, True):
        assistant.examine(jobs[0].path, for_text=ready)  # what is done once only
    alone = _one_by_one(assistant, jobs)
    ready_to_explain = _one_by_one(assistant, jobs, for_text=True)
    local = _batch(jobs, settings, "local")
    yield Ratio(
        "batch of verdicts against one at a time, verdicts only",
        alone.seconds / local.seconds, None, True, len(jobs),
        f"{alone.seconds:.2f} s against {local.seconds:.2f} s a picture",
    )  # fmt: skip
    yield Ratio(
        "batch of verdicts against one at a time as `examine` does it, ready to explain",
        ready_to_explain.seconds / local.seconds, 1.5, True, len(jobs),
        f"{ready_to_explain.seconds:.2f} s against {local.seconds:.2f} s a picture",
    )  # fmt: skip
    yield Ratio(
        "verdicts against the sum of the network stages",
        local.seconds / alone.networks, 1.25, False, len(jobs),
        f"{local.seconds:.2f} s against {alone.networks:.2f} s a picture",
    )  # fmt: skip
    if hasattr(assistant.backbone, "narrate_many"):
        yield _text(assistant, jobs[:TOGETHER])
    gap = max(_gap(alone.chances, other.chances) for other in (ready_to_explain, local))
    if ray:
        other = _batch(jobs, settings, "ray")
        gap = max(gap, _gap(alone.chances, other.chances))
        yield Ratio(
            "Ray against local", other.seconds / local.seconds, 1.3, False, len(jobs),
            f"{other.seconds:.2f} s against {local.seconds:.2f} s a picture",
        )  # fmt: skip
    yield Ratio("largest difference of a probability", gap, 1e-3, False, len(jobs), f"{gap:.1e}")
    if memory:
        few, many = (_peak(count, settings) for count in memory)
        yield Ratio(
            f"memory at {memory[1]} pictures against {memory[0]}", many / few, 1.1, False, memory[1],
            f"{many / 2**20:.0f} MiB against {few / 2**20:.0f} MiB",
        )  # fmt: skip
    if int8:
        yield from _int8(assistant, jobs, alone)


def _one_by_one(assistant: Assistant, jobs: Sequence[Any], *, for_text: bool = False) -> _Run:
    """Pictures examined one after the other; ``for_text`` also keeps what an explanation would go on from."""
    chances: dict[str, dict[str, float]] = {}
    networks = 0.0
    start = time.perf_counter()
    for job in jobs:
        report = assistant.examine(job.path, file=job.file, for_text=for_text)
        chances[report.file] = dict(report.probabilities)
        networks += sum(report.timing.get(stage, 0.0) for stage in NETWORKS)
    seconds = time.perf_counter() - start
    return _Run(seconds / len(jobs), chances, networks / len(jobs))


def _int8(assistant: Assistant, jobs: Sequence[Any], exact: _Run) -> Iterator[Ratio]:
    """What dynamic int8 quantisation of tower and language model gains and costs; the assistant is spent afterwards."""
    from torch import nn
    from torch.ao.quantization import quantize_dynamic

    from vlmforensics.compact.forward import core_of

    core = core_of(assistant.backbone.parts.model)  # type: ignore[attr-defined]
    quantize_dynamic(core.model, {nn.Linear}, inplace=True)  # type: ignore[no-untyped-call]
    small = _one_by_one(assistant, jobs)
    yield Ratio(
        "network stages in float against int8", exact.networks / small.networks, 1.2, True, len(jobs),
        f"{exact.networks:.2f} s against {small.networks:.2f} s a picture",
    )  # fmt: skip
    gap = _gap(exact.chances, small.chances)
    yield Ratio("largest difference of a probability by int8", gap, 1e-3, False, len(jobs), f"{gap:.1e}")


def _batch(jobs: Sequence[Any], settings: Settings, engine: str) -> _Run:
    """Seconds a picture once the first record has come, so without loading; the command's own engine."""
    made = make_engine(engine, isolated=True)
    factory = LoadWorker(settings.model, replace(settings, threads=1), text="none")
    # what fills the pipeline goes first, and the clock starts when it is full
    lead = 2 * default_workers()
    first = [replace(jobs[number % len(jobs)], file=f"lead {number}") for number in range(lead)]
    jobs = [*first, *jobs]
    chances: dict[str, dict[str, float]] = {}
    start = end = 0.0
    for number, record in enumerate(made.run(jobs, factory, lambda: False), start=1):
        end = time.perf_counter()
        if number == lead:
            start = end
        elif number > lead:
            chances[record["file"]] = record["probabilities"]
    return _Run((end - start) / max(1, len(jobs) - lead), chances)


def _gap(first: dict[str, dict[str, float]], second: dict[str, dict[str, float]]) -> float:
    return max(abs(first[file][label] - second[file][label]) for file in first for label in first[file])


def _text(assistant: Assistant, jobs: Sequence[Any]) -> Ratio:
    """Tokens a second of texts written together, against one by one; every text has the same length."""
    backbone: Any = assistant.backbone
    looks = [assistant.examine(job.path).look for job in jobs]
    asked = ["Describe the picture in one long sentence."] * len(looks)
    prefixes = ["This"] * len(looks)

    def spent(write: Callable[[int], Any]) -> float:
        """Seconds for the tokens alone: what feeding the instruction takes is measured and taken off."""
        times = []
        for tokens in (1, 1 + TOKENS):
            start = time.perf_counter()
            write(tokens)
            times.append(time.perf_counter() - start)
        return max(1e-9, times[1] - times[0])

    def singly(tokens: int) -> None:
        for look, instruction, prefix in zip(looks, asked, prefixes, strict=True):
            for _ in backbone.narrate(look, instruction, prefix=prefix, max_new_tokens=tokens):
                pass

    def together(tokens: int) -> None:
        backbone.narrate_many(looks, asked, prefixes, max_new_tokens=tokens)

    one, many = spent(singly), spent(together)
    count = TOKENS * len(looks)
    return Ratio(
        f"tokens a second, {len(looks)} texts together against singly", one / many, 2.0, True, count,
        f"{count / many:.1f} against {count / one:.1f} tokens a second at most",
    )  # fmt: skip


def _peak(count: int, settings: Settings) -> int:
    """Largest memory (proportional set size, bytes) of this process's children during a batch of small pictures."""
    rng = np.random.default_rng(count)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "in"
        folder.mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (96, 96, 3), np.uint8)
            (folder / f"{number:06d}.jpg").write_bytes(encode(pixels, "JPEG"))
        factory = LoadWorker(settings.model, replace(settings, threads=1), text="none")
        with _watched() as peak, Ledger(Path(home) / "out.jsonl") as ledger:
            summary = Summary({})
            for record in run_batch(Inputs([folder]), ledger, make_engine("local", isolated=True), factory):
                summary.add(record)
    return peak[0]


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Sample the memory of all our children, and theirs, ten times a second."""
    peak, ended = [0], threading.Event()

    def sample() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], sum(map(_pss, _descendants(os.getpid()))))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in listing.read_text().split()]
        except OSError:
            continue
        found += children
        for child in children:
            found += _descendants(child)
    return found


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def save(ratios: Sequence[Ratio], target: Path) -> None:
    """Write the ratios as JSON."""
    rows = [asdict(ratio) | {"holds": ratio.holds} for ratio in ratios]
    target.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
