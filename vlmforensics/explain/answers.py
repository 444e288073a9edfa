"""Answers to follow-up questions: from the evidence, with citations, and never another verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from vlmforensics.explain import phrases, replies
from vlmforensics.explain.direction import direction, percent, size, where, without
from vlmforensics.explain.narration import question_instruction
from vlmforensics.explain.questions import Reading, named_but_absent, read
from vlmforensics.explain.stream import Stop, narrated
from vlmforensics.explain.wording import (
    Sentence,
    Wording,
    capital,
    listed,
    lowered,
    numbered,
    statement,
    topic,
    wording,
)
from vlmforensics.types import LABELS, Answer, Box, Evidence, Report
from vlmforensics.vlm.base import Backbone, Look

_PROVENANCE = {"metadata", "camera_exif", "editor_traces", "generation_parameters", "c2pa"}


class AnswerStream:
    """Iterator over pieces of an answer; when exhausted, ``answer`` is complete and joins the conversation.

    Attributes:
        answer: what was said so far.
    """

    def __init__(self, report: Report, question: str, pieces: Iterator[Sentence]) -> None:
        self._report = report
        self._pieces = pieces
        self.answer = Answer(question, "")

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> str:
        try:
            sentence = next(self._pieces)
        except StopIteration:
            if self.answer.text and self.answer not in self._report.conversation:
                self._report.conversation += (self.answer,)
            raise
        old = self.answer
        piece = f" {sentence.text}" if old.text else sentence.text
        cited = tuple(dict.fromkeys((*old.cited, *sentence.ids)))
        self.answer = Answer(old.question, old.text + piece, cited)
        return piece


def answer(
    report: Report,
    question: str,
    backbone: Backbone | None = None,
    look: Look | None = None,
    *,
    max_new_tokens: int = 160,
    stop: Stop | None = None,
) -> AnswerStream:
    """Answer a question about a report from its evidence.

    The question is read by transparent rules (``questions``); the answer is plain wording with citations.
    Only a question that no rule understands is also put to the narrator, and of its reply only a sentence
    that passes ``verify`` is shown. Nothing in a question changes the verdict.

    Args:
        report: judged; the answer joins ``report.conversation`` when the stream is exhausted.
        question: as the user wrote it.
        backbone: the narrator, or None.
        look: its look at this picture, or None.
        max_new_tokens: of the narrator.
        stop: polled before each sentence.

    Returns:
        A stream of sentences with their spacing.
    """
    return AnswerStream(report, question, _pieces(report, question, backbone, look, max_new_tokens, stop))


def _pieces(
    report: Report,
    question: str,
    backbone: Backbone | None,
    look: Look | None,
    max_new_tokens: int,
    stop: Stop | None,
) -> Iterator[Sentence]:
    reading = read(question, report)
    # The same question asked again is answered in other words.
    words = wording(report, salt=f"/{question}/{len(report.conversation)}")
    said: list[str] = []
    if reading.intent == "unknown" and question.strip():
        task = question_instruction(report, question)
        checks = narrated(report, backbone, look, task, "", max_new_tokens=max_new_tokens, stop=stop, most=1)
        for check in checks:
            if check.passed:
                yield Sentence(check.text, check.ids)
                return
    for sentence in _ANSWERS[reading.intent](words, reading, question):
        if stop is not None and stop() and said:
            return
        if sentence.text not in said:
            said.append(sentence.text)
            yield sentence


# ------------------------------------------------------------------ helpers


def _cited(words: Wording, bank: Sequence[str], items: Sequence[Evidence], **fields: str) -> Sentence:
    """A sentence about several findings."""
    template = numbered(words.choose.pick(bank), len(items) > 1)
    cites = listed([f"[{item.id}]" for item in items])
    return Sentence(
        capital(template.format(topics=words.topics(items), cites=cites, **fields)),
        tuple(item.id for item in items),
    )


def _named(words: Wording) -> list[Evidence]:
    """Two findings to name: the heaviest, or the first ones where none says anything."""
    return words.balance.heaviest[:2] or list(words.report.evidence[:2])


def _figures(probabilities: object) -> dict[str, str]:
    return {label: percent(probabilities[label]) for label in LABELS}  # type: ignore[index]


def _reason(words: Wording) -> str:
    return lowered((words.report.verdict.abstention or "").rstrip(". "))


# ------------------------------------------------------------------ one function an intent


def _verdict(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    del reading, question
    verdict, led = words.report.verdict, words.leading[:2]
    p = percent(verdict.probabilities[words.balance.label])
    first = (
        _cited(words, replies.VERDICT[verdict.label], led, p=p, reason=_reason(words))
        if led
        else words.summary()
    )
    return [first, Sentence(words.choose.pick(replies.NO_CERTIFICATE))]


def _command(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    del reading, question
    name, led = replies.VERDICT_NAMES[words.report.verdict.label], words.leading[:2]
    return [_cited(words, replies.COMMAND if led else replies.COMMAND_BARE, led, verdict=name)]


def _why(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    if words.report.verdict.label == "inconclusive" or not words.balance.pros:
        result = _verdict(words, reading, question)[:1] + words.reasons(words.balance.pros[:2])
    else:
        result = words.reasons(words.balance.pros[:3])
    return result + words.objections()[:1]


def _against(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    del reading, question
    if words.balance.cons:
        return words.objections()
    calm = words.balance.neutral[:3]
    return [_cited(words, replies.AGAINST_NONE, calm)] if calm else [Sentence(replies.AGAINST_NONE_BARE)]


def _where(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    report = words.report
    found = [item for item in report.evidence if item.region is not None]
    if reading.box is not None:
        return _overlaps(words, found, reading.box)
    result = []
    wanted = [item for item in found if item in reading.evidence] or found
    asked = [item for item in wanted if _matches(item, report, reading.places)]
    if reading.places and found and not asked:
        result.append(_cited(words, replies.WHERE_ASKED_NONE, found[:3]))
    result += [_place(words, item) for item in (asked or wanted)[:3]]
    if not found:
        led = _named(words)
        result += [_cited(words, replies.WHERE_NONE, led)] if led else [words.summary()]
        if report.verdict.label == "synthetic":
            result.append(Sentence(replies.WHERE_SYNTHETIC))
    marked = words.marked()
    if marked is not None and not reading.places:
        result.append(marked)
    if re.search(r"\b(hand|face|eye|sky|person|man|woman|text|hair|mouth|car|dog|cat)s?\b", question.lower()):
        result.append(Sentence(words.choose.pick(replies.NO_OBJECTS)))
    return result


def _place(words: Wording, item: Evidence) -> Sentence:
    assert item.region is not None  # noqa: S101 - narrows the type; callers pass evidence with a region
    box, case = item.region.box, words.report.case
    fields = words.fields(item) | {"x0": str(box.x0), "y0": str(box.y0), "x1": str(box.x1), "y1": str(box.y1)}
    text = words.choose.pick(replies.WHERE_REGION).format(**fields, where=where(box, case.width, case.height))
    return Sentence(capital(text), (item.id,))


_THIRDS = {
    "left": (0, 0), "right": (0, 2), "upper": (1, 0), "top": (1, 0), "lower": (1, 2), "bottom": (1, 2),
}  # fmt: skip
"""Place → axis (0 across, 1 down) and third of the picture."""


def _matches(item: Evidence, report: Report, places: Sequence[str]) -> bool:
    """True where a region reaches into every place that was named; a corner or the background says not where."""
    if not places or item.region is None:
        return False
    thirds = {_THIRDS[place] for place in places if place in _THIRDS}
    if {"centre", "center", "middle"} & set(places):
        thirds |= {(axis, 1) for axis in {0, 1} - {axis for axis, _ in thirds}}
    box, case = item.region.box, report.case
    spans = (box.x0 / case.width, box.x1 / case.width), (box.y0 / case.height, box.y1 / case.height)
    return all(3 * spans[axis][0] < third + 1 and 3 * spans[axis][1] > third for axis, third in thirds)


def _overlaps(words: Wording, found: Sequence[Evidence], box: Box) -> list[Sentence]:
    """Findings whose region meets a rectangle."""
    area = (box.x1 - box.x0) * (box.y1 - box.y0)
    result = []
    for item in found:
        if item.region is None:
            continue
        other = item.region.box
        wide = min(box.x1, other.x1) - max(box.x0, other.x0)
        high = min(box.y1, other.y1) - max(box.y0, other.y0)
        if wide > 0 and high > 0:
            fields = words.fields(item) | {"share": percent(wide * high / area)}
            result.append(Sentence(capital(words.choose.pick(replies.OVERLAP).format(**fields)), (item.id,)))
    return result or [Sentence(replies.NO_OVERLAP), *_where_none(words)]


def _where_none(words: Wording) -> list[Sentence]:
    led = words.balance.heaviest[:2]
    placed = any(item.region is not None for item in words.report.evidence)
    return [_cited(words, replies.WHERE_NONE[1:], led)] if led and not placed else []


def _sure(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    del question
    verdict, led = words.report.verdict, words.balance.heaviest[:2]
    figures = _figures(verdict.probabilities)
    named = [item for item in reading.evidence if item.reliability is not None][:2]
    if named:
        own = [words.reliability(item) for item in named]
        return [sentence for sentence in own if sentence is not None]
    result = (
        [_cited(words, replies.SURE, led, **figures)]
        if led
        else [Sentence(replies.SURE_BARE.format(**figures))]
    )
    if led and (measured := words.reliability(led[0])) is not None:
        result.append(measured)
    if verdict.abstention is not None:
        result.append(Sentence(capital(words.choose.pick(replies.UNSURE).format(reason=_reason(words)))))
    else:
        alpha = f"{100 * verdict.alpha:.3g} %"
        result.append(Sentence(words.choose.pick(replies.BOUND).format(alpha=alpha)))
    return result


def _change(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    """Counterfactuals: exact, because the log-odds are a sum."""
    del question
    report = words.report
    led = [item for item in reading.evidence if direction(item) is not None][:1] or words.leading[:1]
    result = []
    for item in led:
        fields = words.fields(item) | _figures(without(report, [item]))
        result.append(Sentence(words.choose.pick(replies.WITHOUT).format(**fields), (item.id,)))
    heavy = _for_leading(words)
    together = [heavy[:count] for count in range(2, len(heavy) + 1)]
    for dropped in [*([item] for item in sorted(report.evidence, key=size, reverse=True)), *together]:
        left = without(report, dropped)
        other = max(LABELS, key=lambda label: left[label])
        if other != report.verdict.leading:
            result.append(_cited(words, replies.FLIP, dropped, other=replies.OUTCOMES[other]))
            break
    else:
        if led and not reading.evidence:
            result.append(Sentence(replies.NO_FLIP.format(c=f"[{led[0].id}]"), (led[0].id,)))
    return [*result, Sentence(words.choose.pick(replies.HELPS))]


def _for_leading(words: Wording) -> list[Evidence]:
    """Findings for the most probable label, heaviest first."""
    leading = words.report.verdict.leading
    return sorted(
        (
            item
            for item in words.report.evidence
            if item.contribution[leading] > 0 and direction(item) is not None
        ),
        key=lambda item: -item.contribution[leading],
    )


def _source(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    del question
    result = []
    for item in reading.evidence[:3]:
        fields = words.fields(item)
        kind = "speaking"
        if direction(item) is None:
            kind = "unweighed" if item in words.balance.unweighed else "silent"
        else:
            found = words.balance.direction(item)
            label = found.label if found else words.balance.label
            fields |= {"value": f"{item.contribution[label]:+.2f}", "label": label}
        effect = words.choose.pick(replies.EFFECT[kind]).format(**fields)
        own = topic(item.source).removeprefix("the ").lower() in statement(item).lower()
        bank = replies.SOURCE[:1] if own else replies.SOURCE
        text = words.choose.pick(bank).format(**fields, effect=effect)
        result.append(Sentence(capital(text), (item.id,)))
    if len(reading.evidence) == 1 and (measured := words.reliability(reading.evidence[0])) is not None:
        result.append(measured)
    if any(item.source in _PROVENANCE for item in reading.evidence):
        result.append(Sentence(words.choose.pick(replies.PROVENANCE_NOTE)))
    return result


def _limits(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    del reading, question
    result = [Sentence(words.choose.pick(replies.LIMITS))]
    counted = [e for e in (*words.balance.pros, *words.balance.cons) if e.reliability is not None]
    if counted:
        weakest = min(
            counted, key=lambda item: item.reliability.balanced_accuracy if item.reliability else 1.0
        )
        quality = weakest.reliability
        if quality is not None:
            fields = words.fields(weakest) | {
                "share": percent(quality.balanced_accuracy),
                "n": f"{quality.n:,}",
            }
            text = words.choose.pick(replies.WEAKEST).format(**fields)
            result.insert(0, Sentence(capital(text), (weakest.id,)))
    broken = words.broken()
    return result + ([broken] if broken is not None else [])


def _help(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    del reading, question
    led = _named(words)
    return [_cited(words, (replies.HELP,), led)] if led else [Sentence(replies.HELP_BARE)]


def _thanks(words: Wording, reading: Reading, question: str) -> list[Sentence]:
    del reading, question
    led = words.balance.heaviest[:2]
    return [_cited(words, (replies.THANKS,), led)] if led else [Sentence(replies.THANKS_BARE)]


def _honest(bank: Sequence[str]) -> Callable[[Wording, Reading, str], list[Sentence]]:
    """An answer that says that nothing measured answers the question."""

    def reply(words: Wording, reading: Reading, question: str) -> list[Sentence]:
        absent = named_but_absent(question, words.report) if reading.intent == "unknown" else ()
        if absent:
            name = phrases.TOPICS[absent[0]]
            text = words.choose.pick(replies.ABSENT).format(T=capital(name), t=name)
            return [Sentence(text), *_why(words, reading, question)[:1]]
        led = _named(words)
        return [_cited(words, bank, led)] if led else [Sentence(replies.OUTSIDE_BARE)]

    return reply


_ANSWERS: dict[str, Callable[[Wording, Reading, str], list[Sentence]]] = {
    "verdict": _verdict,
    "command": _command,
    "why": _why,
    "against": _against,
    "where": _where,
    "sure": _sure,
    "change": _change,
    "source": _source,
    "limits": _limits,
    "help": _help,
    "thanks": _thanks,
    "outside": _honest(replies.OUTSIDE),
    "unknown": _honest(replies.UNKNOWN),
}
