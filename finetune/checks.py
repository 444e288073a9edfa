"""Checks of annotators' words: do they betray a label that was told, do they claim what nobody can see?

Annotators are asked about a picture and nothing else, so a text that refers to a label, a prompt or a ground truth made
it up or was told it: either way it must not be learnt from. And an observation describes what is to be seen: numbers of
a measurement, file facts, tools and verdicts in it are claims that its author can't support.
"""

from __future__ import annotations

import re

from vlmforensics.clues import Clue

LONGEST = 300
"""Characters of an observation; longer ones wander off."""

_FAKE = (
    r"(?:fake|real|synthetic|tampered|manipulated|authentic|genuine|ai[- ]generated|generated|forged|edited)"
)
_TOLD = (
    r"(?:stated|said|told|given|mentioned|indicated|noted|informed|provided|labell?ed|instructed|described)"
)
_PICTURE = r"(?:image|picture|photo(?:graph)?)"
_LEAKS = (
    r"(?:ground[- ]truth|gold label|true label)",
    r"(?:the|this|your|its|given|provided|known) (?:class )?label",
    r"labell?ed (?:as )?(?:a |an )?" + _FAKE,
    rf"as (?:you )?{_TOLD} (?:in|by|above|earlier)",
    rf"you(?:'ve| have)? (?:{_TOLD}|gave)",
    rf"(?:the|your) (?:prompt|instructions?|question|user) (?:{_TOLD}|says|states|tells|indicates|implies|mentions)",
    r"according to (?:the )?(?:prompt|instructions?|label|file ?name|caption|title|question)",
    rf"(?:since|because|given that|knowing that|as) (?:the|this) {_PICTURE} is (?:known to be )?(?:a |an )?{_FAKE}",
    rf"known to be (?:a |an )?{_FAKE}",
    r"we (?:know|were told|are told)",
)
_LEAK = re.compile(rf"\b(?:{'|'.join(_LEAKS)})\b", re.IGNORECASE)
_VERDICTS = (
    r"fake|deep ?fake|authentic|genuine|forger(?:y|ies)|forged|photoshop(?:ped)?|tampered|manipulated",
    r"ai[- ](?:generated|made|created|art)|midjourney|stable diffusion|dall",
    r"(?:generated|made|created|produced) (?:by|with|using) (?:an? )?"
    r"(?:ai|artificial|generative|diffusion|gan|model|neural)",
    rf"(?:real|synthetic) {_PICTURE}",
    rf"{_PICTURE} (?:is|looks|appears) (?:real|synthetic|fake)",
)
_VERDICT = re.compile(rf"\b(?:{'|'.join(_VERDICTS)})\b", re.IGNORECASE)
_MEASURED = re.compile(
    r"\d+(?:\.\d+)?\s*(?:%|per ?cent|db\b|px\b|pixels\b|degrees\b|°)|\bp\s*[<=]\s*0|\bprobability of\b|\bconfidence\b",
    re.IGNORECASE,
)
_TOOLS = re.compile(
    r"\b(?:ela|error level analysis|exif|meta ?data|c2pa|watermarking|fourier|fft|spectr(?:um|al)"
    r"|noise analysis|prnu|reverse (?:image )?search|detector|forensic (?:tool|analysis)"
    r"|compression level|histogram)\b",
    re.IGNORECASE,
)
_DENIES = re.compile(
    r"\b(?:no|not|none|nothing|without|neither|never|isn't|aren't|doesn't|don't|cannot|can't)\b",
    re.IGNORECASE,
)
_APPROVES = re.compile(
    r"\b(?:natural|normal|consistent|correct|plausible|coherent|proper|realistic)(?:ly)?\b", re.IGNORECASE
)
_ASSERTS = re.compile(
    r"\b(?:unnatural|abnormal|inconsistent|incorrect|implausible|distorted|malformed|deformed|warped|smeared|garbled|wrong"
    r"|impossible|missing|mismatched|irregular)(?:ly)?\b",
    re.IGNORECASE,
)
_FILLERS = """
about above across after along also another appear appears area areas around because been before behind below beside
between both clear clearly could does each edge every from have here image into like look looks more most much near
only other over part parts people person photo photograph picture same scene seem seems shape should show shows side
some such than that their them then there these they thing things this those through under very visible where which
while with within would
"""
_COMMON = frozenset(_FILLERS.split())


def leaks_label(text: str) -> bool:
    """True where the text refers to a label, prompt or truth that an annotator was never given."""
    return _LEAK.search(text) is not None


def unsupported(text: str, clue: Clue, answer: bool) -> list[str]:
    """Why an observation can't be taken as it stands; empty where it can.

    Args:
        text: what the annotator says it sees.
        clue: what it was asked.
        answer: yes or no, as it answered.

    Returns:
        Some of ``long``, ``verdict`` (it judges instead of describing), ``measurement`` (a number that needs an
        instrument), ``tool`` (an analysis or file facts that it had not), ``contradiction`` (the words say the opposite
        of the answer), ``off-topic`` (no word in common with the clue).
    """
    found = []
    if len(text) > LONGEST:
        found.append("long")
    if _VERDICT.search(text):
        found.append("verdict")
    if _MEASURED.search(text):
        found.append("measurement")
    if _TOOLS.search(text):
        found.append("tool")
    denies, approves, asserts = (
        pattern.search(text) is not None for pattern in (_DENIES, _APPROVES, _ASSERTS)
    )
    if answer and not asserts and (approves != denies if approves else denies and not _negative(clue)):
        found.append("contradiction")
    if not answer and asserts and not denies:
        found.append("contradiction")
    if not _stems(text) & _stems(f"{clue.question} {clue.look_for} {clue.present} {clue.absent}"):
        found.append("off-topic")
    return found


def _negative(clue: Clue) -> bool:
    """True where a yes is itself worded as an absence (a shadow that is missing, skin without pores)."""
    return _DENIES.search(clue.present) is not None or _DENIES.search(clue.question) is not None


def _stems(text: str) -> set[str]:
    """Beginnings of the words that carry meaning, so that plural and tense don't matter."""
    return {word[:5] for word in re.findall(r"[a-z]{4,}", text.lower()) if word not in _COMMON}
