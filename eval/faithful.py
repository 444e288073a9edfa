"""Does an explanation follow the evidence? Tests of one report, on the text alone and by changing what lies behind it.

The checks of the text are written independently of ``explain.verify``, which the text has already passed: a measurement
with the same code would find nothing. They are narrower (a fixed grammar of citations, numbers and directions), so they
can miss an error, but what they report is one.

- *Citations*: each must exist and stand in a sentence without an error; contributing evidence must be cited somewhere.
- *Contradictions*: a direction against the sign of the cited contribution, or another verdict than the fused one.
- *Numbers*: each number must be one of the cited statements, reliabilities or probabilities, rounded at most.
- *Deletion*: the evidence is judged and told again without its heaviest findings: the log-odds must move by exactly the
  contribution, and the text must no longer hold the finding.
- *Swap*: the narrator looks at this picture and is given another picture's evidence: the text must follow the evidence.
- *Paraphrase*: one question asked in several ways must be answered from the same evidence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

from vlmforensics import fusion
from vlmforensics.assistant import Assistant
from vlmforensics.explain.direction import without
from vlmforensics.explain.wording import topic
from vlmforensics.types import LABELS, Evidence, Report

CONTRIBUTES = 0.05
"""Log-odds from which evidence contributes and has to be cited."""
DELETED = 2
"""Findings that are left out, one at a time, heaviest first."""
QUESTIONS = ("Why?", "What makes you say that?", "On what grounds was this decided?")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9“])")
_CITATION = re.compile(r"\[E(\d+)\]")
_NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?")
_LABEL_WORDS = {
    "real": r"(?:unmanipulated|without manipulation|no manipulation|no sign of manipulation|real\b)",
    "synthetic": r"(?:wholly generated|generated|generation|synthetic|generator)",
    "tampered": r"(?:partly edited|edited|edit\b|editing|tamper\w*)",
}
_LABEL = f"(?:{'|'.join(f'(?P<{label}>{words})' for label, words in _LABEL_WORDS.items())})"
_SHARE = re.compile(
    r"(?P<bound>less than |more than )?(?P<share>\d+) % for (?:a |an |the )?(?:wholly )?" + _LABEL,
    re.IGNORECASE,
)
"""``18 % for no manipulation``, ``less than 1 % for an edit``: a label's probability, not a direction of evidence."""
_STANCE = re.compile(
    r"(?<!% )\b(?P<way>for|against|towards|away from)\s+(?:a |an |the |any |local )*(?:picture |generation )?"
    + _LABEL,
    re.IGNORECASE,
)
_STATED = {
    "real": re.compile(
        r"no sign of manipulation|amounts to a sign of manipulation|unmanipulated", re.IGNORECASE
    ),
    "synthetic": re.compile(
        r"synthetic|generated as a whole|wholly generated|whole picture was generated|generator",
        re.IGNORECASE,
    ),
    "tampered": re.compile(r"tamper|edited", re.IGNORECASE),
    "inconclusive": re.compile(
        r"inconclusive|undecided|no verdict|no clear outcome|not settle", re.IGNORECASE
    ),
}


@dataclass
class Reading:
    """What was found in one text.

    Attributes:
        sentences: number of sentences.
        citations, good_citations: marks like ``[E1]``, and those that exist and stand in a sentence without an error.
        contributing, cited: evidence that contributes, and how much of it is cited.
        contradictions: directions or verdicts that the numbers don't bear out.
        numbers, wrong_numbers: numbers in the text, and those that nothing cited holds.
        errors: a sentence for each error, for people.
    """

    sentences: int = 0
    citations: int = 0
    good_citations: int = 0
    contributing: int = 0
    cited: int = 0
    contradictions: int = 0
    numbers: int = 0
    wrong_numbers: int = 0
    errors: list[str] = field(default_factory=list)


def read(text: str, report: Report, *, whole: bool = True) -> Reading:
    """Check one text against a report.

    Args:
        text: an explanation, or an answer.
        report: what it is about.
        whole: it is an explanation: it states the verdict first and has to cite all that contributes.
    """
    found = Reading()
    known = {item.id: item for item in report.evidence}
    seen: set[str] = set()
    parts = [part for block in text.split("\n") for part in _SENTENCE.split(block.strip()) if part]
    for place, sentence in enumerate(parts):
        names = [f"E{number}" for number in _CITATION.findall(sentence)]
        cited = [known[name] for name in dict.fromkeys(names) if name in known]
        seen |= {item.id for item in cited}
        before = len(found.errors)
        found.sentences += 1
        found.citations += len(names)
        found.errors += [f"{name} does not exist: {sentence}" for name in names if name not in known]
        _numbers(sentence, cited, report, found)
        _stances(sentence, cited, found)
        _shares(sentence, report, found)
        if whole and place == 0 and not _STATED[report.verdict.label].search(sentence):
            found.contradictions += 1
            found.errors.append(f"does not state the verdict {report.verdict.label}: {sentence}")
        if len(found.errors) == before:
            found.good_citations += len(names)
    contributing = {item.id for item in report.evidence if _size(item) >= CONTRIBUTES}
    found.contributing = len(contributing)
    found.cited = len(contributing & seen)
    return found


def _size(item: Evidence) -> float:
    return max(abs(value) for value in item.contribution.values())


def _values(text: str) -> list[float]:
    return [
        float(match.replace(",", ""))
        for match in _NUMBER.findall(_CITATION.sub(" ", text.replace("\u2060", "")))
    ]


def _numbers(sentence: str, cited: Sequence[Evidence], report: Report, found: Reading) -> None:
    allowed = _values(report.verdict.abstention or "")
    for item in cited:
        allowed += _values(item.statement) + _values(item.strength)
        if item.reliability is not None:
            share = item.reliability
            allowed += [100 * share.balanced_accuracy, 100 * share.low, 100 * share.high, share.n]
        allowed += [100 * value for value in without(report, [item]).values()]
    allowed += [100 * value for value in report.verdict.probabilities.values()] + [
        1.0,
        99.0,
        100 * report.verdict.alpha,
    ]
    for match in _NUMBER.findall(_CITATION.sub(" ", sentence.replace("\u2060", ""))):
        found.numbers += 1
        value = float(match.replace(",", ""))
        slack = 0.5 * 10 ** -len(match.partition(".")[2]) + 1e-9
        if not any(abs(value - other) <= slack for other in allowed):
            found.wrong_numbers += 1
            found.errors.append(f"{match} is no number of the cited evidence: {sentence}")


def _stances(sentence: str, cited: Sequence[Evidence], found: Reading) -> None:
    """Each ``for …`` and ``against …`` outside quoted statements must have the sign of its clause's evidence."""
    rest = sentence.replace("\u2060", "")
    for item in cited:
        said = item.statement.rstrip(" .")
        rest = re.sub(re.escape(said), "§", rest, flags=re.IGNORECASE)
    for clause in re.split(r"; |, but |, while |, whereas |, though |^While |^Although ", rest):
        for part in clause.split(", ") if rest.startswith(("While ", "Although ")) else [clause]:
            own = [item for item in cited if f"[{item.id}]" in part] or list(cited)
            for match in _STANCE.finditer(part):
                label = next(name for name in LABELS if match.group(name))
                sign = -1 if match.group("way").lower() in ("against", "away from") else 1
                for item in own:
                    if sign * item.contribution[label] <= 0:
                        found.contradictions += 1
                        found.errors.append(f"{item.id} does not speak {match.group()}: {sentence}")


def _shares(sentence: str, report: Report, found: Reading) -> None:
    """Each ``N % for LABEL`` must be that label's probability, rounded, or on the side of N that is said."""
    for match in _SHARE.finditer(sentence.replace("\u2060", "")):
        label = next(name for name in LABELS if match.group(name))
        bound = (match.group("bound") or "").lower().strip()
        over = 100 * report.verdict.probabilities[label] - float(match.group("share"))
        if not {"less than": over < 0, "more than": over > 0, "": abs(over) <= 0.5 + 1e-9}[bound]:
            found.contradictions += 1
            found.errors.append(f"{match.group()} is not the probability of {label}: {sentence}")


# ---------------------------------------------------------------- one report, changed and told again


def examine(assistant: Assistant, report: Report, before: Sequence[Report] = ()) -> dict[str, Any]:
    """All tests of one report; sets ``report.explanation``.

    Args:
        assistant: that examined it.
        report: fresh, without explanation.
        before: another picture's report for the swap test, or none.

    Returns:
        JSON values: ``text`` (a :class:`Reading`), the number of ``generated`` sentences and of ``replaced`` ones among
        them, ``deletion``, ``swap``, ``paraphrase``.
    """
    text = "".join(assistant.explain(report))
    found: dict[str, Any] = {
        "text": asdict(read(text, report)),
        "generated": report.explanation.generated if report.explanation else 0,
        "replaced": report.explanation.replaced if report.explanation else 0,
        "deletion": [_delete(assistant, report, item) for item in _heaviest(report)],
        "paraphrase": _paraphrase(assistant, report),
    }
    if before:
        found["swap"] = _swap(assistant, report, before[0])
    return found


def _heaviest(report: Report) -> list[Evidence]:
    ordered = sorted(report.evidence, key=_size, reverse=True)
    return [item for item in ordered if _size(item) >= CONTRIBUTES][:DELETED]


def _told(assistant: Assistant, report: Report, **changed: Any) -> tuple[Report, str]:
    fields: dict[str, Any] = {"explanation": None, "conversation": (), **changed}
    again = replace(report, **fields)
    return again, "".join(assistant.explain(again))


def _delete(assistant: Assistant, report: Report, item: Evidence) -> dict[str, Any]:
    """Judge and tell without one finding."""
    rest = [other for other in report.evidence if other.source != item.source]
    judged, verdict = fusion.judge(
        rest, assistant.calibration, alpha=report.verdict.alpha, failures=report.failures
    )
    mask = None if item.source == "mask" else report.mask
    again, text = _told(assistant, report, evidence=judged, verdict=verdict, mask=mask)
    gap = moved_by(report.verdict.probabilities, verdict.probabilities, item.contribution)
    return {
        "source": item.source,
        "gap": gap,
        "exact": gap < 1e-6,
        "gone": not holds(text, item, again.evidence),
    }


def moved_by(
    before: Mapping[str, float], after: Mapping[str, float], contribution: Mapping[str, float]
) -> float:
    """How far the log-odds are from moving by a contribution when it is taken away: 0 = exactly."""
    left = [
        math.log(max(after[label], 1e-300)) - math.log(max(before[label], 1e-300)) + contribution[label]
        for label in LABELS
    ]
    return max(left) - min(left)


def holds(text: str, item: Evidence, others: Sequence[Evidence]) -> bool:
    """Whether a text still tells of a finding: its topic, its statement, or a number that nothing else has."""
    lower = text.lower().replace("\u2060", "")
    if item.statement.rstrip(" .").lower() in lower:
        return True
    if topic(item.source).lower() in lower and topic(item.source) not in {
        topic(other.source) for other in others
    }:
        return True
    elsewhere = {value for other in others for value in _values(other.statement)}
    telling = {
        match
        for match in _NUMBER.findall(item.statement)
        if len(match.partition(".")[2]) >= 2 and float(match.replace(",", "")) not in elsewhere
    }
    return any(re.search(rf"(?<![\d.]){re.escape(match)}(?!\d)", lower) for match in telling)


def _swap(assistant: Assistant, report: Report, other: Report) -> dict[str, Any]:
    """Tell another picture's evidence while looking at this one."""
    again, text = _told(
        assistant,
        report,
        evidence=other.evidence,
        verdict=other.verdict,
        mask=other.mask,
        failures=other.failures,
    )
    reading = read(text, again)
    said = {item.statement for item in other.evidence}
    leaked = [
        item.source
        for item in report.evidence
        if item.statement not in said and item.statement.rstrip(" .").lower() in text.lower()
    ]
    return {"follows": not reading.errors and not leaked, "leaked": leaked, "errors": reading.errors}


def _paraphrase(assistant: Assistant, report: Report) -> dict[str, Any]:
    """Ask one question in several ways."""
    cited: list[set[str]] = []
    errors: list[str] = []
    for question in QUESTIONS:
        answer = assistant.ask(replace(report, conversation=()), question)
        cited.append(set(answer.cited))
        errors += read(answer.text, report, whole=False).errors
    overlaps = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in combinations(cited, 2)]
    return {"overlap": sum(overlaps) / len(overlaps), "errors": errors}
