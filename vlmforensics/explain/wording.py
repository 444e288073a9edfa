"""Plain wording: sentences made from the evidence's own statements, varied by the picture's digest.

This is the text that is always available, and what replaces generated sentences that fail their check. The same report
gives the same words; another picture gives others.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vlmforensics.explain import phrases
from vlmforensics.explain.direction import (
    Balance,
    Direction,
    at,
    balance,
    direction,
    percent,
    place_of,
    without,
)
from vlmforensics.strength import NO_SUPPORT, worded, words_of
from vlmforensics.types import LABELS, Evidence, Report

OWN_PROS, OWN_CONS = 3, 2
"""Findings for and against the verdict that get sentences of their own; the others share one."""
LONG = 130
"""Characters from which a statement stands at the end of its sentence, after a colon."""

_LOWERED = {
    "The", "A", "An", "No", "Its", "This", "In", "At", "On", "Of", "There", "Some", "Most", "About",
    "Neither",
    "Both", "One", "Two", "All", "Every", "Each", "Within", "Between", "Noise", "Metadata",
    "Neighbouring", "Luma", "Power", "Differences", "Compression", "Colour", "Only", "Green", "Parts",
}  # fmt: skip


_COMMON = {"file", "search", "test", "measurement", "picture", "data"}


@dataclass(frozen=True)
class Sentence:
    """One sentence and the ids that it cites."""

    text: str
    ids: tuple[str, ...] = ()


class Chooser:
    """Deterministic choice among phrasings: by a digest, or by a given random generator.

    A phrasing is not used twice in a role before all others were.

    Args:
        seed: any text (a picture's digest), or a ``random.Random`` for training texts.
    """

    def __init__(self, seed: str | random.Random) -> None:
        self._seed = seed
        self._used: dict[tuple[str, ...], list[int]] = {}
        self._count = 0

    def number(self, below: int, role: str = "") -> int:
        """A number in [0, below)."""
        if isinstance(self._seed, random.Random):
            return self._seed.randrange(below)
        self._count += 1
        digest = hashlib.sha256(f"{self._seed}/{role}/{self._count}".encode()).digest()
        return int.from_bytes(digest[:8]) % below

    def pick(self, options: Sequence[str]) -> str:
        """One of the options."""
        key = tuple(options)
        used = self._used.setdefault(key, [])
        if len(used) >= len(options):
            used.clear()
        left = [index for index in range(len(options)) if index not in used]
        index = left[self.number(len(left), options[0])]
        used.append(index)
        return options[index]


def statement(evidence: Evidence) -> str:
    """The statement made fit for the middle of a sentence: no full stop, no markup, nothing that looks like a citation.

    Word joiners (U+2060, invisible) keep an ``E5700`` in quoted metadata from reading as a citation.
    """
    text = "".join(ch if ch.isprintable() else " " for ch in evidence.statement)
    text = " ".join(text.split()).translate(str.maketrans("[]<>`{}|", "()‹›'()/"))
    text = re.sub(r"[.!?]+(\s)", r";\1", text.rstrip(" .!?;:"))
    return re.sub(r"E(?=\d)", "E\u2060", text)


def lowered(text: str) -> str:
    """The text with a small first letter, where its first word is known to allow that."""
    first = text.split(" ", 1)[0].split("’")[0].split("'")[0]
    return text[:1].lower() + text[1:] if first in _LOWERED else text


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def topic(source: str) -> str:
    """What a source looks at, as a noun phrase."""
    known = phrases.TOPICS.get(source)
    if known:
        return known
    plain = re.sub(r"[^a-z0-9]+", " ", source.lower()).strip()
    return f"the {plain} measurement" if plain else "one measurement"


def degree(evidence: Evidence, found: Direction | None = None) -> str:
    """``moderate support`` and the like, or an empty string where it gives none to speak of.

    Args:
        evidence: judged.
        found: the direction that is spoken of; the main one, which stands in ``strength``, where it is None.
    """
    main = direction(evidence)
    if main is None:
        return ""
    if found is None or found == main:
        words = re.split(r" (?:for|against) ", evidence.strength)[0]
    else:
        ratio = evidence.llr[found.label]
        words = words_of(ratio) if ratio * found.sign > 0 else NO_SUPPORT
    return words if words.endswith("support") and words != NO_SUPPORT else ""


def strength_told(evidence: Evidence, parts: Balance) -> str:
    """Its ``strength`` as it suits the side on which a reader is shown it, see :meth:`Balance.direction`."""
    found = parts.direction(evidence)
    if found is None or found == direction(evidence):
        return evidence.strength
    words = degree(evidence, found) or NO_SUPPORT
    return worded(words, found.sign, found.label)


def supported(evidence: Evidence, found: Direction, toward: str) -> str:
    """How much an evidence speaks ``for …`` or ``against …``: a direction of it, and that in words."""
    if degree(evidence, found):
        return f"{degree(evidence, found)} {toward}"
    return f"only a slight leaning {leaning(toward)}"


def leaning(toward: str) -> str:
    """``towards …`` or ``away from …``, from ``for …`` or ``against …``."""
    side, _, rest = toward.partition(" ")
    return f"{'towards' if side == 'for' else 'away from'} {rest}"


def listed(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; nothing of nothing."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def numbered(template: str, many: bool) -> str:
    """Resolve ``{one|many}`` alternatives."""
    return re.sub(r"\{([^{}|]*)\|([^{}|]*)\}", r"\2" if many else r"\1", template)


@dataclass
class Wording:
    """Builds the sentences of one report.

    Attributes:
        report: what is worded; never changed.
        choose: picks phrasings.
    """

    report: Report
    choose: Chooser
    balance: Balance = field(init=False)

    def __post_init__(self) -> None:
        self.balance = balance(self.report)

    @property
    def leading(self) -> list[Evidence]:
        """What a result rests on, heaviest first: the findings for the verdict, or all where there is none."""
        return (
            self.balance.heaviest if self.report.verdict.label == "inconclusive" else list(self.balance.pros)
        )

    # ---------------------------------------------------------------- parts

    def toward(self, evidence: Evidence) -> str:
        """``for …`` or ``against …``, as it suits the side on which it stands."""
        found = self.balance.direction(evidence)
        if found is None:
            return "for neither side"
        return self.choose.pick(phrases.TOWARD[found.sign, found.label])

    def points(self, evidence: Evidence, *, many: bool = False) -> str:
        """``speaks for …``, or ``leans slightly towards …``; ``many`` gives the plural verb."""
        found = self.balance.direction(evidence)
        if found is None:
            return "say little" if many else "says little"
        firm = degree(evidence, found)
        verbs = phrases.POINTS[found.sign] if firm else phrases.LEANS
        verb = verbs[self.choose.number(len(verbs), "verb")][1 if many else 0]
        toward = self.toward(evidence)
        return f"{verb} {toward if firm else leaning(toward)}"

    def support(self, evidence: Evidence) -> str:
        """``moderate support for …``, or words for less than that."""
        found = self.balance.direction(evidence)
        return supported(evidence, found, self.toward(evidence)) if found else self.toward(evidence)

    def fields(self, evidence: Evidence) -> dict[str, str]:
        """Template fields of one evidence."""
        said, what = statement(evidence), topic(evidence.source)
        return {
            "S": capital(said), "s": lowered(said), "T": capital(what), "t": what, "c": f"[{evidence.id}]",
            "points": self.points(evidence), "support": self.support(evidence), "toward": self.toward(evidence),
        }  # fmt: skip

    def topics(self, items: Sequence[Evidence]) -> str:
        """``the noise residual [E2] and the camera data [E5]``."""
        return listed([f"{topic(item.source)} [{item.id}]" for item in items])

    # ---------------------------------------------------------------- sentences

    def summary(self) -> Sentence:
        """The fused verdict in one sentence, with its probability and up to three citations."""
        verdict = self.report.verdict
        parts = self.balance
        led = self.leading[: 1 + self.choose.number(3, "led")]
        fields = {
            "p": percent(verdict.probabilities[parts.label]),
            "reason": lowered((verdict.abstention or "").rstrip(". ")),
            "topics": self.topics(led) if led else "",
        }
        bank = phrases.SUMMARY if led else phrases.SUMMARY_BARE
        template = numbered(self.choose.pick(bank[verdict.label]), len(led) > 1)
        return Sentence(capital(template.format(**fields)), tuple(item.id for item in led))

    def one(self, evidence: Evidence, lead: Sequence[str], tail: Sequence[str]) -> Sentence:
        """One evidence in one sentence."""
        fields = self.fields(evidence)
        if self._names_itself(evidence) and not fields["s"].endswith(")"):
            embed = phrases.CON_EMBED if lead is phrases.CON_FIRST_LEAD else phrases.EMBED
            options: Sequence[str] = embed if self._clumsy(evidence) else (*lead, *embed)
        elif self._names_itself(evidence) and not self._clumsy(evidence):
            options = lead
        else:
            options = tail if self._clumsy(evidence) or self.choose.number(5, "form") < 3 else lead
        template = self.choose.pick(options)
        return Sentence(capital(template.format(**fields)), (evidence.id,))

    @staticmethod
    def _clumsy(evidence: Evidence) -> bool:
        """True where nothing can follow the statement within its sentence."""
        said = statement(evidence)
        return len(said) > LONG or ";" in said or ":" in said

    @staticmethod
    def _names_itself(evidence: Evidence) -> bool:
        """True where the statement begins with its topic or nearly so."""
        opening = set(re.findall(r"[a-z]{4,}", " ".join(statement(evidence).lower().split()[:8])))
        return bool(opening & (set(re.findall(r"[a-z]{4,}", topic(evidence.source).lower())) - _COMMON))

    def plain(self, evidence: Evidence) -> Sentence:
        """An evidence's plain wording wherever it stands: what replaces a sentence that failed its check."""
        if direction(evidence) is None:
            return self.silent([evidence])
        if evidence in self.balance.cons:
            return self.one(evidence, phrases.CON_FIRST_LEAD, phrases.CON_FIRST_TAIL)
        return self.one(evidence, phrases.PRO_NEXT_LEAD, phrases.PRO_NEXT_TAIL)

    def pair(self, a: Evidence, b: Evidence) -> Sentence:
        """Two evidences that point the same way."""
        many = self.points(a, many=True)
        fields = {
            "Ta": capital(topic(a.source)), "ta": topic(a.source), "tb": topic(b.source),
            "ca": f"[{a.id}]", "cb": f"[{b.id}]", "point": many,
            "sa": lowered(statement(a)), "sb": lowered(statement(b)),
        }  # fmt: skip
        return Sentence(capital(self.choose.pick(phrases.PAIR_SAME).format(**fields)), (a.id, b.id))

    def contrast(self, a: Evidence, b: Evidence) -> Sentence:
        """Two evidences that disagree, without their numbers."""
        fields = {
            "Ta": capital(topic(a.source)), "ta": topic(a.source),
            "Tb": capital(topic(b.source)), "tb": topic(b.source), "ca": f"[{a.id}]", "cb": f"[{b.id}]",
            "points_a": self.points(a), "points_b": self.points(b),
        }  # fmt: skip
        return Sentence(capital(self.choose.pick(phrases.PAIR_CONTRAST).format(**fields)), (a.id, b.id))

    def mergeable(self, a: Evidence, b: Evidence) -> bool:
        """True where ``pair`` gives a readable sentence."""
        texts = statement(a), statement(b)
        short = sum(map(len, texts)) < 190 and not any(mark in text for text in texts for mark in ";:")
        ways = self.balance.direction(a), self.balance.direction(b)
        alike = ways[0] == ways[1] and bool(degree(a, ways[0])) == bool(degree(b, ways[1]))
        return short and direction(a) is not None and alike

    def silent(self, items: Sequence[Evidence]) -> Sentence:
        """Evidence that says next to nothing, or is not weighed; all of one kind."""
        bank = phrases.UNWEIGHED if items[0] in self.balance.unweighed else phrases.NEUTRAL
        text = numbered(self.choose.pick(bank), len(items) > 1).format(topics=self.topics(items))
        return Sentence(capital(text), tuple(item.id for item in items))

    def minor(self, items: Sequence[Evidence]) -> list[Sentence]:
        """Lesser findings by topic alone, so that none that counts is left out: a sentence for each direction."""
        groups: dict[tuple[Direction | None, bool], list[Evidence]] = {}
        for item in items:
            found = self.balance.direction(item)
            groups.setdefault((found, bool(degree(item, found))), []).append(item)
        sentences = []
        for (_, firm), group in groups.items():
            bank = phrases.MINOR if firm else phrases.MINOR_LEANS
            template = numbered(self.choose.pick(bank), len(group) > 1)
            toward = self.toward(group[0])
            text = template.format(topics=self.topics(group), toward=toward, leaning=leaning(toward))
            sentences.append(Sentence(capital(text), tuple(item.id for item in group)))
        return sentences

    def objections(self) -> list[Sentence]:
        """What speaks against the verdict: up to two findings."""
        cons = self.balance.cons[:OWN_CONS]
        banks = (
            (phrases.CON_FIRST_LEAD, phrases.CON_FIRST_TAIL),
            (phrases.CON_NEXT_LEAD, phrases.CON_NEXT_TAIL),
        )
        return [self.one(item, *bank) for item, bank in zip(cons, banks, strict=False)]

    def reasons(self, items: Sequence[Evidence]) -> list[Sentence]:
        """Findings for the verdict, heaviest first; two that agree may share a sentence."""
        sentences: list[Sentence] = []
        left = list(items)
        while left:
            item = left.pop(0)
            top = bool(self.balance.pros) and item is self.balance.pros[0]
            if left and not top and self.mergeable(item, left[0]) and self.choose.number(2, "merge"):
                sentences.append(self.pair(item, left.pop(0)))
            elif top and self.balance.heaviest[0] is item:
                sentences.append(self.one(item, phrases.PRO_TOP_LEAD, phrases.PRO_TOP_TAIL))
            elif top:
                sentences.append(self.one(item, phrases.PRO_FIRST_LEAD, phrases.PRO_FIRST_TAIL))
            else:
                sentences.append(self.one(item, phrases.PRO_NEXT_LEAD, phrases.PRO_NEXT_TAIL))
        return sentences

    def reliability(self, evidence: Evidence) -> Sentence | None:
        """How often its source is right, or None where that was not measured."""
        if evidence.reliability is None:
            return None
        fields = self.fields(evidence) | {
            "share": percent(evidence.reliability.balanced_accuracy), "n": f"{evidence.reliability.n:,}",
        }  # fmt: skip
        return Sentence(self.choose.pick(phrases.RELIABILITY).format(**fields), (evidence.id,))

    def place(self, evidence: Evidence) -> Sentence | None:
        """Where it lies, or None."""
        found = place_of(evidence, self.report)
        if found is None:
            return None
        template = self.choose.pick(phrases.PLACE)
        fields = self.fields(evidence) | {"where": found, "at": at(found)}
        return Sentence(template.format(**fields), (evidence.id,))

    def marked(self) -> Sentence | None:
        """How mask and verdict agree, where that is worth a sentence."""
        said = self.report.verdict.mask_agreement
        mask = next((item for item in self.report.evidence if item.source == "mask"), None)
        if said is None or (self.report.verdict.label != "tampered" and "%" not in said):
            return None
        if mask is None:
            return Sentence(said)
        return Sentence(f"{said.rstrip('.')} [{mask.id}].", (mask.id,))

    def counterfactual(self) -> Sentence | None:
        """What the heaviest finding changes: the probability without it, exact."""
        if not self.balance.pros or self.report.verdict.label == "inconclusive":
            return None
        heaviest = self.balance.pros[0]
        before = self.report.verdict.probabilities[self.balance.label]
        after = without(self.report, [heaviest])[self.balance.label]
        fields = self.fields(heaviest) | {"p": percent(before), "q": percent(after)}
        kind = "down" if after < before and fields["p"] != fields["q"] else "same"
        options = phrases.COUNTERFACTUAL[kind]
        if kind == "down" and self.report.verdict.label != "real":
            options += phrases.INNOCENT
        return Sentence(self.choose.pick(options).format(**fields), (heaviest.id,))

    def odds(self) -> Sentence:
        """The three probabilities of an inconclusive result."""
        moved = self.balance.heaviest[:2]
        fields = {label: percent(self.report.verdict.probabilities[label]) for label in LABELS}
        if not moved:
            text = "No manipulation {real}, generated as a whole {synthetic}, edited in part {tampered}."
            return Sentence(text.format(**fields))
        cites = listed([f"[{item.id}]" for item in moved])
        text = self.choose.pick(phrases.ODDS).format(**fields, cites=cites)
        return Sentence(text, tuple(item.id for item in moved))

    def broken(self) -> Sentence | None:
        """Sources that failed on this picture."""
        names = sorted({topic(item.source) for item in self.report.failures})
        return Sentence(self.choose.pick(phrases.BROKEN).format(names=listed(names))) if names else None

    def limit(self) -> Sentence:
        """What this result can't say, or what would help."""
        label = self.report.verdict.label
        kind = "accused" if label in ("synthetic", "tampered") else label
        return Sentence(self.choose.pick(phrases.LIMITS[kind]))

    # ---------------------------------------------------------------- the whole

    def body(self, worded: Mapping[str, object] | set[str]) -> list[list[Sentence]]:
        """Paragraphs after the summary; evidence in ``worded`` has been said already."""
        parts = self.balance

        def new(items: Sequence[Evidence]) -> list[Evidence]:
            return [item for item in items if item.id not in worded]

        reasons = self.reasons(new(parts.pros[:OWN_PROS]))
        if parts.pros and (extra := self.place(parts.pros[0])) is not None and parts.pros[0].source != "mask":
            reasons.append(extra)
        if parts.pros and (extra := self.reliability(parts.pros[0])) is not None:
            reasons.append(extra)
        reasons += self.minor(new(parts.pros[OWN_PROS:]))
        against = [item for item in self.objections() if not set(item.ids) & set(worded)]
        against += self.minor(new(parts.cons[OWN_CONS:]))
        against += [self.silent(group[:4]) for group in (parts.neutral, parts.unweighed) if group]
        undecided = self.report.verdict.label == "inconclusive"
        last = [
            self.marked(),
            self.odds() if undecided else self.counterfactual(),
            self.broken(),
            self.limit(),
        ]
        return [part for part in (reasons, against, [item for item in last if item is not None]) if part]


def wording(report: Report, *, salt: str = "") -> Wording:
    """The wording of a report: phrasings chosen by its picture's digest, so the same picture reads the same."""
    return Wording(report, Chooser(f"{report.case.sha256}{salt}"))
