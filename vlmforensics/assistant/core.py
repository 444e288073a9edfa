"""The one object that wires the rooms: bytes → evidence → verdict → explanation, and answers."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlmforensics import explain as narrator
from vlmforensics import fusion, imaging
from vlmforensics.assistant.marking import marked
from vlmforensics.assistant.parts import (
    VLM,
    BlendingWitness,
    MaskWitness,
    Parts,
    TowerPatches,
    calibration_for,
    describe,
    gate_features,
    load_parts,
)
from vlmforensics.errors import VlmForensicsError
from vlmforensics.fusion.gates import UNSEEN, Gate, pixel_gates
from vlmforensics.report.ledger import Ledger, file_digest
from vlmforensics.report.record import error_record, to_record
from vlmforensics.settings import Settings, load_settings
from vlmforensics.types import (
    LABELS,
    Answer,
    Box,
    CaseImage,
    Evidence,
    EvidenceSource,
    Mask,
    ModelInfo,
    Report,
    SourceFailure,
    Traces,
)
from vlmforensics.vlm.base import LABEL_HEAD, TEXT, Backbone, Look

Progress = Callable[[str], None]
Stop = Callable[[], bool]
NETWORK = "network"
_log = logging.getLogger(__name__)


def _silent(stage: str) -> None:
    """Progress that nobody watches."""


class _Clock:
    """Seconds by stage, in the order in which the stages began."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def total(self) -> dict[str, float]:
        return self.seconds | {"total": time.perf_counter() - self._start}


@dataclass(eq=False)
class _Examination:
    """What is known of one case while it is examined."""

    case: CaseImage
    clock: _Clock
    local: list[Evidence] = field(default_factory=list)
    blending: list[Evidence] = field(default_factory=list)
    traces: Traces | None = None
    hints: tuple[str, ...] = ()
    failures: list[SourceFailure] = field(default_factory=list)

    def fail(self, source: str, error: Exception) -> None:
        """Record a broken witness: it contributes nothing and is reported, whatever it was."""
        code = error.code if isinstance(error, VlmForensicsError) else f"defect.{type(error).__name__}"
        self.failures.append(SourceFailure(source, code, str(error)[:300]))
        _log.debug("source %s failed", source, exc_info=error)


class Assistant:
    """Examines pictures, explains its verdicts and answers questions about them.

    Use :meth:`load`; the constructor takes parts for those who assemble their own. One assistant may examine
    several pictures at once from several threads where its backbone allows it.

    Attributes:
        model: which weights speak, with their digests.
        settings: as given.
    """

    def __init__(
        self,
        backbone: Backbone,
        sources: Sequence[EvidenceSource],
        blending: BlendingWitness | None,
        masks: MaskWitness | None,
        calibration: fusion.Calibration,
        settings: Settings | None = None,
        *,
        tower: TowerPatches | None = None,
        calibrated_as: str = VLM,
    ) -> None:
        self.settings = load_settings() if settings is None else settings
        self._parts = Parts(backbone, tuple(sources), blending, masks, calibration, tower, calibrated_as)
        self._calibration = calibration_for(calibrated_as, calibration)
        self.model: ModelInfo = describe(self._parts, self.settings)
        # one thread of our own beside the networks' on a small machine; more bring nothing to a dozen short sources
        workers = 0 if self.settings.threads == 1 else min(4, max(1, (os.cpu_count() or 1) - 1))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="signals") if workers else None

    @classmethod
    def load(cls, model: str | None = None, *, settings: Settings | None = None) -> Assistant:
        """Load a model with everything around it.

        Args:
            model: ``compact``, ``llava-1.5-7b``, ``fakevlm``, a checkpoint folder, ``http(s)://…/v1``; None: as set.
            settings: None reads ``VLMF_*`` variables over the defaults.

        Raises:
            ModelError: weights that can't be had or don't fit.
        """
        settings = load_settings() if settings is None else settings
        p = load_parts(model or settings.model, settings)
        witnesses = (p.backbone, p.sources, p.blending, p.masks)
        return cls(*witnesses, p.calibration, settings, tower=p.tower, calibrated_as=p.calibrated_as)

    @property
    def backbone(self) -> Backbone:
        """The vision-language model that looks and narrates."""
        return self._parts.backbone

    @property
    def calibration(self) -> fusion.Calibration:
        """The frozen numbers that judge, as they hold beside this backbone."""
        return self._calibration

    # ---------------------------------------------------------------- examine

    def examine(
        self,
        source: Any,
        *,
        file: str | None = None,
        progress: Progress | None = None,
        for_text: bool = True,
    ) -> Report:
        """Examine one picture and judge it; no text is written yet.

        Args:
            source: path, bytes, PIL image, or a ``CaseImage`` already opened.
            file: label for the report where the source has none.
            progress: called with the stage's name as each begins: decoding, signals, blending, looking, mask,
                judging.
            for_text: False where no explanation will be asked for, so that the look may be cheaper.

        Raises:
            InputError: the picture can't be examined. Broken witnesses don't raise: they are
                ``report.failures``.
        """
        say = progress or _silent
        clock = _Clock()
        say("decoding")
        with clock("decoding"):
            case = self._open(source, file)
        work = _Examination(case, clock)
        say("signals")
        running = self._start_sources(case)
        say("blending")
        self._blend(work)
        self._ask_experts(work)
        say("looking")
        look = self._look(work, for_text=for_text)
        say("mask")
        self._collect_sources(work, running)
        mask, located = self._locate(work, look)
        say("judging")
        return self._judge(work, look, mask, located)

    def _open(self, source: Any, file: str | None) -> CaseImage:
        if isinstance(source, CaseImage):
            return source
        return imaging.open_case(source, file=file, settings=self.settings)

    def _start_sources(self, case: CaseImage) -> list[tuple[str, Future[tuple[list[Evidence], float]]]]:
        """Start the local witnesses beside the networks, which free the interpreter while they compute."""
        aside = (source for source in self._parts.sources if source.cost != NETWORK)
        return [(source.name, self._submit(source, case)) for source in aside]

    def _submit(self, source: EvidenceSource, case: CaseImage) -> Future[tuple[list[Evidence], float]]:
        if self._pool is not None:
            return self._pool.submit(_timed, source, case)
        done: Future[tuple[list[Evidence], float]] = Future()
        try:
            done.set_result(_timed(source, case))
        except Exception as error:  # noqa: BLE001 - handed on to _collect_sources
            done.set_exception(error)
        return done

    def _collect_sources(
        self, work: _Examination, running: list[tuple[str, Future[tuple[list[Evidence], float]]]]
    ) -> None:
        for name, future in running:
            try:
                found, seconds = future.result()
            except Exception as error:  # noqa: BLE001 - the boundary for broken witnesses
                work.fail(name, error)
                continue
            work.local += found
            work.clock.add("signals", seconds)

    def _blend(self, work: _Examination) -> None:
        detector = self._parts.blending
        if detector is None:
            return
        with work.clock("blending"):
            try:
                work.blending, work.traces = detector.examine_map(work.case)
                work.hints = tuple(detector.sentence(evidence) for evidence in work.blending)
            except Exception as error:  # noqa: BLE001 - see _collect_sources
                work.fail("blending", error)

    def _ask_experts(self, work: _Examination) -> None:
        """Hear the witnesses that are networks, in turn with the others: two at once get in the way."""
        for source in self._parts.sources:
            if source.cost == NETWORK:
                with work.clock(source.name):
                    try:
                        work.local += source.examine(work.case)
                    except Exception as error:  # noqa: BLE001 - see _collect_sources
                        work.fail(source.name, error)

    def _look(self, work: _Examination, *, for_text: bool) -> Look | None:
        with work.clock("looking"):
            try:
                return self.backbone.look(work.case.upright, work.hints, for_text=for_text)
            except Exception as error:  # noqa: BLE001 - see _collect_sources
                work.fail(VLM, error)
                return None

    def _locate(self, work: _Examination, look: Look | None) -> tuple[Mask | None, list[Evidence]]:
        head, tower, pixels = self._parts.masks, self._parts.tower, work.case.upright
        if head is None:
            return None, []
        if look is None and tower is None:
            work.failures.append(SourceFailure("mask", "look", "the model's look, which it reads, broke"))
            return None, []
        # the head was trained beside one tower; another model's states and opinions mean nothing to it
        own = look if tower is None else None
        with work.clock("mask"):
            try:
                mask = head.locate(
                    pixels,
                    patches=own.patches if own is not None else tower(pixels) if tower is not None else {},
                    traces=work.traces,
                    seg=own.seg if own is not None else None,
                    label_log_probs=own.log_probs if own is not None else None,
                )
                return marked(head, mask, work.local, pixels.shape)
            except Exception as error:  # noqa: BLE001 - see _collect_sources
                work.fail("mask", error)
                return None, []

    def _judge(
        self, work: _Examination, look: Look | None, mask: Mask | None, located: list[Evidence]
    ) -> Report:
        with work.clock("judging"):
            evidence = [*work.local, *work.blending, *self._said(look), *located]
            area = None if not located else 0.0 if mask is None else mask.area_fraction
            judged, verdict = fusion.judge(
                evidence,
                self._calibration,
                alpha=self.settings.alpha,
                failures=tuple(work.failures),
                gates=self._gates(work.case, look),
                mask_area=area,
            )
        return Report(
            case=work.case,
            verdict=verdict,
            evidence=judged,
            mask=mask,
            model=self.model,
            failures=tuple(work.failures),
            timing=work.clock.total(),
            look=look,
            traces=work.traces,
            guarantee=self._calibration.guarantee(self.settings.alpha).sentence,
        )

    def _gates(self, case: CaseImage, look: Look | None) -> tuple[Gate, ...]:
        """Reasons not to decide: the pixels' own, and distance from calibration in the tower's features."""
        found = pixel_gates(case.upright)
        distance = self._calibration.distance
        if distance is None or self._parts.tower is not None:
            return found
        if look is None:
            return (*found, UNSEEN)
        far = distance(gate_features(look.patches)) if look.patches else None
        return found if far is None else (*found, far)

    def _said(self, look: Look | None) -> list[Evidence]:
        """The backbone's own opinion as evidence."""
        if look is None or look.log_probs is None:
            return []
        chances = [math.exp(value) for value in look.log_probs]
        means = look.means or ("label head" if LABEL_HEAD in self.backbone.capabilities else "label words")
        shares = ", ".join(f"{label} {chance:.2f}" for label, chance in zip(LABELS, chances, strict=True))
        name = self.backbone.name
        against = float(np.logaddexp(look.log_probs[1], look.log_probs[2]) - look.log_probs[0])
        return [
            Evidence(
                source=VLM,
                statement=f"The {means} of the language model {name} weighs {shares} before calibration.",
                score=against,
                vector=look.log_probs,
                status="observed",
                recompute={"backbone": name, "read": means},
            ),
            *narrator.remark_evidence(name, look.remark),
        ]

    def locate(
        self,
        report: Report,
        *,
        box: Box | None = None,
        points: Sequence[tuple[float, float]] = (),
    ) -> Mask | None:
        """Ask the mask head about one place of an examined picture, as users of Segment Anything do.

        A hint where to look: it changes neither verdict nor report.

        Args:
            report: of this assistant.
            box: a rectangle to look at, upright pixels.
            points: clicks (x, y) inside what is asked about, upright pixels.

        Returns:
            The mask, without regions where nothing is marked; None where there is no mask head, or nothing that it
            could read the picture with.

        Raises:
            SettingsError: a click or the box lies outside the picture.
        """
        head, tower, pixels = self._parts.masks, self._parts.tower, report.case.upright
        look = report.look if tower is None else None
        if head is None or (look is None and tower is None):
            return None
        return head.locate(
            pixels,
            patches=look.patches if look is not None else tower(pixels) if tower is not None else {},
            traces=report.traces,
            seg=look.seg if look is not None else None,
            label_log_probs=look.log_probs if look is not None else None,
            points=points,
            box=box,
        )

    # ---------------------------------------------------------------- words

    def explain(self, report: Report, *, stop: Stop | None = None) -> Iterator[str]:
        """Stream the explanation; when the stream ends, ``report.explanation`` is set.

        Every sentence has been checked against the evidence before it is yielded. ``stop`` is polled while the
        model writes; what was said until then stays.
        """
        speaker, look = self._narrator(report)
        words = self.settings.max_new_tokens
        yield from narrator.explain(report, speaker, look, max_new_tokens=words, stop=stop)

    def explain_many(self, reports: Sequence[Report]) -> None:
        """Explain several reports, together where the backbone can: sets ``report.explanation`` of each.

        A backbone that writes several texts at a time (``narrate_many``) reads its weights once for all of them.
        The texts are those of :meth:`explain` but for rounding in the last place, which may now and then turn a
        word.
        """
        together = getattr(self.backbone, "narrate_many", None)
        if together is None or len(reports) < 2:
            for report in reports:
                for _ in self.explain(report):
                    pass
            return
        pairs = [(report, *self._narrator(report)) for report in reports]
        narrator.explain_many(pairs, together, max_new_tokens=self.settings.max_new_tokens)

    def ask(self, report: Report, question: str, *, stop: Stop | None = None) -> Answer:
        """Answer a question from a report's evidence; joins ``report.conversation``, never re-judges."""
        stream = self._answer(report, question, stop)
        for _ in stream:
            pass
        return stream.answer

    def ask_stream(self, report: Report, question: str, *, stop: Stop | None = None) -> Iterator[str]:
        """As :meth:`ask`, streamed; the answer joins the conversation when the stream ends."""
        yield from self._answer(report, question, stop)

    def _answer(self, report: Report, question: str, stop: Stop | None) -> narrator.AnswerStream:
        speaker, look = self._narrator(report)
        words = self.settings.max_new_tokens
        return narrator.answer(report, question, speaker, look, max_new_tokens=words, stop=stop)

    def _narrator(self, report: Report) -> tuple[Backbone | None, Look | None]:
        """Who speaks, and the look it speaks from; a look taken without text in mind is taken again."""
        if TEXT not in self.backbone.capabilities:
            return None, None
        look = report.look
        if look is None or look.state is None:
            try:
                look = self.backbone.look(report.case.upright, self.hints(report), for_text=True)
            except VlmForensicsError:
                # a model that can't look can't speak: the evidence's own statements carry the explanation
                return None, None
            report.look = look
        return self.backbone, look

    def hints(self, report: Report) -> tuple[str, ...]:
        """The detector sentences that the backbone is told with the question about a report's picture."""
        detector = self._parts.blending
        if detector is None:
            return ()
        return tuple(detector.sentence(item) for item in report.evidence if item.source == "blending")

    # ---------------------------------------------------------------- many

    def examine_many(
        self,
        paths: Iterable[str | Path],
        *,
        resume: str | Path | None = None,
        text: Literal["all", "none"] = "none",
    ) -> Iterator[Report | VlmForensicsError]:
        """Examine pictures in turn; one that can't be examined yields its error and never ends the rest.

        Args:
            paths: read lazily.
            resume: batch file (JSON lines) that every result is appended to; pictures it already has are left
                out.
            text: ``all`` also explains each.
        """
        with ExitStack() as stack:
            ledger = None if resume is None else stack.enter_context(Ledger(Path(resume), resume=True))
            for path in paths:
                file = str(path)
                if ledger is not None and ledger.knows(file) and ledger.has(file, file_digest(path)):
                    continue
                result = self._one_of_many(path, text)
                if ledger is not None:
                    ledger.append(
                        to_record(result) | {"file": file}
                        if isinstance(result, Report)
                        else error_record(file, file_digest(path), result, self.model)
                    )
                yield result

    def _one_of_many(self, path: str | Path, text: str) -> Report | VlmForensicsError:
        try:
            report = self.examine(path, for_text=text == "all")
            if text == "all":
                for _ in self.explain(report):
                    pass
        except VlmForensicsError as error:
            error.file = error.file or str(path)
            return error
        return report


def _timed(source: EvidenceSource, case: CaseImage) -> tuple[list[Evidence], float]:
    start = time.perf_counter()
    return source.examine(case), time.perf_counter() - start
