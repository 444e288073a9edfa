"""Every generated sentence is checked against the evidence before anyone reads it.

A sentence passes if it is well formed, cites evidence that exists, says nothing that its cited evidence does not say
(words, numbers, places, strengths), gives each cited evidence its own direction, claims no authenticity, and agrees
with the fused verdict. What can't be checked does not pass: a plain statement takes its place, which loses style and
nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import cast

from vlmforensics.explain import phrases
from vlmforensics.explain.direction import EPS, Direction, direction, place_of, size
from vlmforensics.explain.numbers import numbers_hold
from vlmforensics.explain.wording import degree, statement, topic
from vlmforensics.types import LABELS, Evidence, Label, Report

SHORTEST, LONGEST = 20, 480
"""Characters of a sentence."""

_ALLOWED = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ0-9 .,;:!?%°±×·…'’‘“”\"()\[\]/+\-–—−=\u2060‹›§¤]+\Z")
_CITATION = re.compile(r"\[?\(?\bE(\d{1,3})\b\)?\]?")
_GROUP = re.compile(r"\[(E\d{1,3}(?:(?:,| and|;) ?E\d{1,3})+)\]")
_WORD = re.compile(r"[a-zà-ÿ]+(?:['’-][a-zà-ÿ]+)*")
_AUTHENTIC = re.compile(
    r"\b(authentic\w*|genuine\w*|trustworth\w*|original(?:ity)? (?:photo\w*|picture|image)|unaltered|untouched|"
    r"pro(?:of|ve[sdn]?|ving)|certain(?:ly|ty)?|definite(?:ly)?|undoubted(?:ly)?|guarantee\w*|100 ?%|beyond doubt|"
    r"fake[sd]?|hoax)\b",
    re.IGNORECASE,
)
_SPELLED = re.compile(
    r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|sixty|seventy|eighty|"
    r"ninety|hundreds?|thousands?|dozens?|half|third|quarter|twice|double|triple|percent)\b",
    re.IGNORECASE,
)
_SPELLED_FREE = {"two"}
"""``two findings`` is wording, checked by the citations; other number words must stand in the statement."""
_STRENGTH = re.compile(
    r"\b(extremely strong|very strong|moderately strong|strong|moderate|weak|slight)(?:ly)?\b", re.IGNORECASE
)
_SUPERLATIVE = re.compile(
    r"\b(heaviest|foremost|largest single|most of the weight|counts? most|weighs? most|main(?:ly)?|chief(?:ly)?|"
    r"above all|more than anything|most clearly|strongest|decisive)\b",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"\b((?:upper|lower|top|bottom)(?:[ -](?:left|right|middle|centre|center))?|left(?: side)?|right side|"
    r"centre|center|whole picture|background|foreground|corner|edge)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r";|:|, (?=but|while|whereas|although|though|yet|however)|\b(?:but|while|whereas|although|though)\b"
)
_NEGATIVE = re.compile(
    r"\b(against|not|never|neither|nor|unlikely|rather than|instead of|away from|excludes?|contradicts?|rules? out|"
    r"less|no longer|denies|without|no)\b|n['’]t\b",
    re.IGNORECASE,
)
_LOOSE_NEGATION = re.compile(
    r"\b(not|never|neither|nor|none|nothing|cannot|without|no|lacks?|absent|hardly|little)\b|n['’]t\b",
    re.IGNORECASE,
)
_EVIDENTIAL = re.compile(
    r"\b(speak\w*|point\w*|argu\w*|count\w*|weigh\w*|suggest\w*|indicat\w*|support\w*|favou?r\w*|consistent|lean\w*|tips?|"
    r"evidence|towards?|pull\w*|signs?|traces?|direction|hint\w*)\b",
    re.IGNORECASE,
)
_CONCEPTS = re.compile(
    r"(?P<real>\b(?:un-?manipulated|unedited|no(?: signs? of)? manipulation|without (?:any )?manipulation|real)\b)"
    r"|(?P<synthetic>\b(?:synthe\w+|generat(?:ed|ion|ive|or|ors|ing)|ai-(?:made|generated)|artificial\w*|fabricat\w+)\b)"
    r"|(?P<tampered>\b(?:tamper\w*|edit(?:ed|ing|s)?|splic\w+|retouch\w*|inpaint\w*|doctored|composit\w+|alter\w+)\b)"
    r"|(?P<manipulated>\bmanipulat\w+\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Check:
    """Outcome for one sentence.

    Attributes:
        text: the sentence with citations in the one form ``[E1]``.
        ids: cited evidence that exists, in order.
        problem: what is wrong, or an empty string.
        stated: ids whose statement the sentence conveys (most of its words).
    """

    text: str
    ids: tuple[str, ...]
    problem: str = ""
    stated: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True where nothing is wrong."""
        return not self.problem


def canonical(text: str) -> str:
    """White space folded; citations written ``[E1]``, groups ``[E1, E2]`` as ``[E1], [E2]``."""
    folded = " ".join(text.split())
    folded = _GROUP.sub(lambda match: ", ".join(re.findall(r"E\d+", match.group(1))), folded)
    return _CITATION.sub(r"[E\1]", folded)


def sayable(text: str) -> bool:
    """Whether a sentence is plain text and claims nothing that no measurement can show (authenticity, certainty)."""
    return bool(_ALLOWED.match(text)) and not _AUTHENTIC.search(text)


def verify(text: str, report: Report, said: Sequence[str] = ()) -> Check:
    """Check one sentence against a report.

    Args:
        text: one sentence as generated.
        report: evidence and verdict, frozen.
        said: sentences that were shown already; one that repeats them does not pass.

    Returns:
        The outcome; ``problem`` names the first check that failed.
    """
    sentence = canonical(text)
    known = {item.id: item for item in report.evidence}
    named = [f"E{number}" for number in _CITATION.findall(sentence)]
    cited = [known[name] for name in dict.fromkeys(named) if name in known]
    ids = tuple(item.id for item in cited)
    rest, stated = _remainder(sentence, cited)
    problem = (
        _form(sentence, said)
        or _told(stated, known, said)
        or ("" if _ALLOWED.match(rest) else "holds markup or control characters")
        or ("cites evidence that does not exist" if len(set(named)) > len(cited) else "")
        or ("cites nothing" if not cited else "")
        or ("claims more than a measurement can" if _AUTHENTIC.search(rest) else "")
        or _words(rest, cited)
        or numbers_hold(rest, cited, report)
        or _strengths(rest, cited, report)
        or _places(rest, cited, report)
        or _directions(rest, cited, report)
        or ("" if stated or _relates(rest, cited) else "says nothing that the evidence says")
    )
    return Check(sentence, ids, problem, stated)


def _form(sentence: str, said: Sequence[str]) -> str:
    if not SHORTEST <= len(sentence) <= LONGEST:
        return "too short or too long"
    if (
        not (sentence[0].isupper() or sentence[0].isdigit())
        or sentence[-1] not in ".!?"
        or sentence[-2] in ",;:("
    ):
        return "is not a whole sentence"
    words = _WORD.findall(_CITATION.sub(" ", sentence).lower())
    if len(words) < 4:
        return "is not a whole sentence"
    if any(a == b for a, b in pairwise(words) if a not in ("that", "had")):
        return "repeats itself"
    # two findings may well speak of the same label, in the same words
    told = _WORD.findall(_toward().sub(" so ", _CITATION.sub(" ", sentence)).lower())
    fours = [tuple(told[i : i + 4]) for i in range(len(told) - 3)]
    if len(set(fours)) < len(fours) or (len(words) > 12 and len(set(words)) < 0.5 * len(words)):
        return "repeats itself"
    if sentence.count("(") != sentence.count(")") or sentence.count("“") != sentence.count("”"):
        return "has unmatched brackets"
    mine = set(words) | set(_CITATION.findall(sentence))
    for other in said:
        theirs = set(_WORD.findall(other.lower())) | set(_CITATION.findall(other))
        if len(mine & theirs) >= 0.85 * len(mine | theirs):
            return "repeats an earlier sentence"
    return ""


def _told(stated: Sequence[str], known: Mapping[str, Evidence], said: Sequence[str]) -> str:
    """No finding is spelled out twice, however it is introduced."""
    earlier = " ".join(said).lower()
    again = any(statement(known[name]).lower() in earlier for name in stated)
    return "repeats an earlier sentence" if again else ""


@cache
def _toward() -> re.Pattern[str]:
    """``for …`` and ``against …`` a label, in the words of the templates."""
    said = sorted((text for bank in phrases.TOWARD.values() for text in bank), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, said)))


def _remainder(sentence: str, cited: Sequence[Evidence]) -> tuple[str, tuple[str, ...]]:
    """The sentence without verbatim statements and topics of cited evidence, and the ids whose statement it conveys."""
    rest, stated = sentence, []
    for item in cited:
        said = statement(item)
        position = rest.lower().find(said.lower())
        if position >= 0:
            rest = rest[:position] + "§" + rest[position + len(said) :]
            stated.append(item.id)
        elif _share(said, sentence) >= 0.6:
            stated.append(item.id)
    for item in cited:
        rest = re.sub(re.escape(topic(item.source)), "¤", rest, flags=re.IGNORECASE)
    return rest, tuple(stated)


def _share(said: str, sentence: str) -> float:
    """Share of a statement's content words that a sentence holds."""
    content = {_stem(word) for word in _WORD.findall(said.lower())} - _general()
    return len(content & _stems(sentence)) / len(content) if content else 0.0


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    word = word.removesuffix("e") if len(word) > 3 else word
    return f"{word[:-1]}i" if word.endswith("y") and len(word) > 3 else word


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in _WORD.findall(text.lower())}


@cache
def _general() -> frozenset[str]:
    """Stems of words that any sentence may use: those of all templates and of ``GENERAL_WORDS``."""
    texts: list[str] = [phrases.GENERAL_WORDS]

    def gather(value: object) -> None:
        if isinstance(value, str):
            texts.append(re.sub(r"\{\w+\}", " ", value))
        elif isinstance(value, dict):
            for inner in value.values():
                gather(inner)
        elif isinstance(value, tuple):
            for inner in value:
                gather(inner)

    for name in NARRATED:
        gather(getattr(phrases, name))
    return frozenset(_stems(" ".join(texts)))


NARRATED = (
    "TOWARD", "POINTS", "LEANS", "EMBED", "CON_EMBED", "PRO_TOP_LEAD", "PRO_TOP_TAIL", "PRO_FIRST_LEAD",
    "PRO_FIRST_TAIL", "PRO_NEXT_LEAD", "PRO_NEXT_TAIL", "CON_FIRST_LEAD", "CON_FIRST_TAIL", "CON_NEXT_LEAD",
    "CON_NEXT_TAIL", "PAIR_SAME", "PAIR_CONTRAST", "MINOR", "MINOR_LEANS", "NEUTRAL", "UNWEIGHED",
)  # fmt: skip
"""Banks whose sentences a narrator may imitate; each of them passes ``verify``."""


def _words(rest: str, cited: Sequence[Evidence]) -> str:
    """No content word that neither the cited evidence nor the general wording holds."""
    allowed = set(_general())
    for item in cited:
        allowed |= _stems(item.statement) | _stems(topic(item.source)) | _stems(item.source.replace("_", " "))
    # Label words, strengths and places have their own checks; citations are not words.
    bare = rest
    for known in (_CITATION, _CONCEPTS, _STRENGTH, _PLACE):
        bare = known.sub(" ", bare)
    strange = sorted(_stems(bare) - allowed - {"manipul"})
    return f"says what the evidence does not say ({', '.join(strange[:3])})" if strange else ""


def _strengths(rest: str, cited: Sequence[Evidence], report: Report) -> str:
    """Strength words are those of the cited evidence, superlatives belong to the heaviest."""
    ways = [Direction(sign, label) for sign in (1, -1) for label in LABELS]
    degrees = {_degree(item, way) for item in cited for way in ways} - {""}
    degrees |= {_degree(item, None) for item in cited}
    if word := _unfounded(rest, degrees, cited):
        return f"gives a strength that was not found ({word})"
    statements = " ".join(item.statement.lower() for item in cited)
    for match in _SPELLED.finditer(rest):
        if match.group().lower() not in _SPELLED_FREE and match.group().lower() not in statements:
            return f"gives a number that was not measured ({match.group()})"
    if _SUPERLATIVE.search(rest):
        most = max(map(size, report.evidence)) - 1e-9
        if not any(size(item) >= most for item in cited):
            return "calls a minor finding the main one"
    return ""


def _degree(item: Evidence, found: Direction | None) -> str:
    """``moderate`` and the like, or an empty string where its support in a direction is none to speak of."""
    return degree(item, found).removesuffix(" support")


def _unfounded(text: str, degrees: set[str], cited: Sequence[Evidence]) -> str:
    """The first strength word that is no degree and in no statement; what is weak or less may be called slight."""
    allowed = degrees | ({"slight"} if degrees & {"", "weak"} else set())
    statements = " ".join(item.statement.lower() for item in cited)
    words = (word.lower() for word in _STRENGTH.findall(text))
    return next((word for word in words if word not in allowed and word not in statements), "")


def _places(rest: str, cited: Sequence[Evidence], report: Report) -> str:
    """A named place is that of a cited region or stands in a cited statement."""
    known = " ".join(
        [place_of(item, report) or "" for item in cited] + [item.statement.lower() for item in cited]
    ).lower()
    for match in _PLACE.finditer(rest):
        if match.group().lower().replace("center", "centre") not in known:
            return f"names a place that was not found ({match.group()})"
    return ""


def _relates(rest: str, cited: Sequence[Evidence]) -> bool:
    """True where the sentence at least names its topics and a direction, or that there is none."""
    named = "¤" in rest or all(
        _stems(item.source.replace("_", " ")) & _stems(rest) or _share(statement(item), rest) >= 0.25
        for item in cited
    )
    silent = all(direction(item) is None for item in cited)
    return named and (silent or bool(_CONCEPTS.search(rest)))


def _directions(rest: str, cited: Sequence[Evidence], report: Report) -> str:
    """Each mention of a label carries the sign of the cited evidence's contribution."""
    for clause in _clauses(rest):
        own = [item for item in cited if f"[{item.id}]" in clause] or list(cited)
        mentions = list(_CONCEPTS.finditer(clause))
        if not mentions:
            loose = _LOOSE_NEGATION.search(clause.replace("no support", ""))
            if loose and not all(direction(item) is None for item in own):
                return f"denies something that was measured ({loose.group()})"
            continue
        before, negative = 0, False
        for mention in mentions:
            between = clause[before : mention.start()]
            if (
                not re.fullmatch(r"[\s,]*(?:(?:and|or|a|an|the|partly|wholly|picture)[\s,]*)*", between)
                or before == 0
            ):
                negative = bool(_NEGATIVE.search(between))
            before = mention.end()
            evidential = bool(_EVIDENTIAL.search(clause[: mention.start()]))
            said = between + (clause[before:] if mention is mentions[-1] else "")
            concept = str(mention.lastgroup)
            problem = _mention(concept, negative, evidential, own, report) or _weight(
                concept, negative, said, own
            )
            if problem:
                return problem
    return ""


def _clauses(rest: str) -> list[str]:
    """Parts of a sentence that may point different ways; one that opens with *while* is split at its commas too."""
    parts = [rest]
    if re.match(r"(?:While|Although|Whereas|Though)\b", rest):
        parts = rest.split(", ")
    return [clause for part in parts for clause in _CLAUSE.split(part) if clause and clause.strip()]


def _mention(
    concept: str, negative: bool, evidential: bool, cited: Sequence[Evidence], report: Report
) -> str:
    """One label word: ``concept`` real, synthetic, tampered or manipulated (either of the last two)."""
    label = report.verdict.label
    if not evidential:
        accused = label in ("synthetic", "tampered")
        agrees = concept == label or (concept == "manipulated" and accused)
        if negative or concept == "real" or not agrees:
            return "states a verdict that fusion did not give"
    for item in cited:
        if size(item) < EPS:
            return f"gives [{item.id}] a direction that it does not have"
        found = _direction_of(concept, negative)
        moved = [found.sign * value for value in item.contribution.values()]
        value = found.sign * item.contribution[found.label]
        if value < EPS or (concept != "manipulated" and value < 0.5 * max(moved)):
            return f"gives [{item.id}] the wrong direction"
    return ""


def _direction_of(concept: str, negative: bool) -> Direction:
    """For or against a label; for manipulation of either kind is against *real*."""
    if concept == "manipulated":
        return Direction(1 if negative else -1, "real")
    return Direction(-1 if negative else 1, cast(Label, concept))


def _weight(concept: str, negative: bool, said: str, cited: Sequence[Evidence]) -> str:
    """A strength word beside a label is what a cited evidence has for, or against, this label."""
    found = _direction_of(concept, negative)
    word = _unfounded(said, {_degree(item, found) for item in cited}, cited)
    return f"gives a strength that it does not have for this label ({word})" if word else ""
