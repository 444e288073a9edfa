"""What a follow-up question is about: transparent scoring by words, no model.

Each intent has cue phrases with weights; each evidence has the words of its source, topic and statement. The scores and
the words that made them are part of the result, so a surprising reading can be traced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vlmforensics.explain.wording import topic
from vlmforensics.types import Box, Evidence, Report

MAX_QUESTION = 1000
"""Characters of a question that are read."""

INTENTS: Mapping[str, Mapping[str, float]] = {
    "command": {
        r"ignore (?:all|any|the|your|previous|above)\b.*": 4,
        r"(?<!\bdo you )(?<!\bdid you )\b(?:say|state|write|answer|claim|pretend|report|tell \w+) "
        r"(?:that )?(?:it|this|the (?:picture|image|photo)|the verdict)(?: is|'s)? (?:a )?\w+": 3,
        r"\b(?:change|set|flip|override|revise|correct|switch) (?:the|your|this|that) "
        r"(?:verdict|result|label|answer|probabilit\w+)": 4,
        r"\byou (?:must|have to|will|are now|should)\b": 2, r"\b(?:system|assistant|user) ?:": 3,
        r"\bmark (?:it|this) as\b": 4, r"\bnew instructions?\b": 4, r"\bas an? (?:admin|developer|expert)\b": 2,
    },
    "verdict": {
        r"\bis (?:it|this|the (?:picture|image|photo)|that) "
        r"(?:an? )?(?:real|fake|authentic|genuine|original|true|ai|edited|"
        r"manipulated|tampered|generated|synthetic|photoshopped|deepfake|doctored)": 3,
        r"\b(?:real or fake|fake or real|what(?:'s| is) (?:the|your) (?:verdict|result|conclusion))\b": 3,
        r"\b(?:verdict|result|conclusion|outcome|summar(?:y|ise|ize))\b": 1.5,
        r"\b(?:authentic|genuine|fake|deepfake)\b": 1.2,
        r"\bcan i (?:trust|publish|use|believe)\b": 2, r"\btrust (?:it|this|the (?:picture|image|photo))\b": 2,
    },
    "why": {
        r"\bwhy\b": 2, r"\bwhy (?:do|did|does|would) (?:you|it)\b": 1.5,
        r"\bhow come\b": 2, r"\breasons?\b": 2, r"\bwhat makes\b": 2, r"\bbecause of what\b": 2,
        r"\bhow (?:do|did|can) you (?:know|tell|decide|conclude|see)\b": 2, r"\bbased on\b": 1.5,
        r"\bevidence\b": 1.0,
        r"\bexplain\b": 1.2, r"\bjustif\w+\b": 2, r"\bprove\b": 1, r"\bwhat speaks (?:for|against)\b": 2.5,
    },
    "against": {
        r"\b(?:what|anything) (?:speaks |stands |is )?against\b": 3, r"\bcounter[- ]?(?:arguments?|evidence)\b": 3,
        r"\bobjections?\b": 2.5, r"\bcontradict\w*\b": 2, r"\bdisagree\w*\b": 2, r"\bother side\b": 2,
    },
    "where": {
        r"\bwhere\b": 2.5, r"\bwh(?:ich|at) (?:part|region|area|place|spot|section)s?\b": 3, r"\bregions?\b": 1.5,
        r"\blocat\w+\b": 2, r"\bmasks?\b": 1.2, r"\bshow me\b": 1.5, r"\bwhich pixels\b": 2.5, r"\bmarked\b": 1.2,
        r"\bareas?\b": 1.2,
        r"\b(?:in|at|on) the (?:upper|lower|top|bottom|left|right|cent(?:er|re)|middle|corner)": 2,
    },
    "sure": {
        r"\bhow (?:sure|certain|confident|reliable|accurate|likely|probable|good|trustworthy)\b": 3,
        r"\b(?:confidence|certainty|probabilit\w+|likelihood|percent\w*|odds|accuracy|error rates?|reliab\w+)\b": 1.8,
        r"\bare you (?:sure|certain)\b": 3, r"\bhow often (?:are|is) (?:you|it|this)\b": 2.5,
        r"\bfalse (?:alarm|positive|accus)\w*\b": 2.5,
    },
    "change": {
        r"\bchange your mind\b": 4, r"\bwhat (?:would|could|might) (?:change|alter|convince|flip)\b": 3.5,
        r"\bwhat if\b": 2,
        r"\bwithout (?:the|that|this|e\d+)\b": 2.5, r"\bwhat (?:else )?would help\b": 3, r"\bnext steps?\b": 2.5,
        r"\bwhat (?:should|can|do) i (?:do|check)\b": 2.5,
        r"\bhow (?:can|could|do) i (?:check|verify|confirm)\b": 2.5,
    },
    "limits": {
        r"\blimit(?:s|ation|ations)?\b": 2.5, r"\bcan(?:'t|not) you\b": 2, r"\bwhat (?:can't|don't|do you not)\b": 2,
        r"\bmistakes?\b": 2, r"\bwrong\b": 1.8, r"\bfail\w*\b": 1.5, r"\bweakness\w*\b": 2.5,
        r"\bmiss(?:ed|es)?\b": 1.2,
        r"\bcould (?:it|this|you) be\b": 1.5, r"\bbias\w*\b": 2,
    },
    "help": {
        r"^\W*(?:help|hi|hello|hey|good (?:morning|evening|day))\b": 3, r"\bwhat can (?:you|i) (?:do|ask)\b": 4,
        r"\bwhat questions\b": 3, r"\bhow does this work\b": 3, r"\bwho are you\b": 3,
    },
    "thanks": {r"^\W*(?:thanks|thank you|ok|okay|great|cool|bye|goodbye)\b": 0.9},
    "outside": {
        r"\bwho (?:is|are|made|took|shot|created|edited|did)\b": 2.5, r"\bwhen (?:was|were|did)\b": 2,
        r"\bwhere was (?:it|(?:this|the)(?: picture| image| photo)?) (?:taken|shot|made)\b": 4.5,
        r"\bwhat(?:'s| is| are) (?:in|on|shown|depicted|happening)\b": 2, r"\bdescribe\b": 2.5,
        r"\bhow old\b": 3, r"\b(?:name of|identify) (?:the|this) (?:person|man|woman|place|city)\b": 3.5,
        r"\b(?:weather|joke|poem|recipe|translate|code|python)\b": 3,
    },
}  # fmt: skip
"""Intent → cue (regular expression over the lower-case question) → weight."""

SOURCE_WORDS: Mapping[str, str] = {
    "vlm": "model vlm language network neural llm reading classifier opinion llava",
    "blending": "blending blend boundary composite compositing seam splice pasted face swap",
    "mask": "mask localisation localization highlighted",
    "metadata": "metadata exif tags header software",
    "generation_parameters": "metadata parameters prompt stable diffusion comfyui midjourney generator iptc",
    "editor_traces": "metadata software photoshop gimp editor editing history xmp",
    "camera_exif": "metadata exif camera lens gps date maker phone",
    "c2pa": "c2pa credentials content manifest provenance signature signed certificate",
    "jpeg": "jpeg jpg compression compressed quality quantisation quantization",
    "jpeg_tables": "jpeg jpg compression quality quantisation quantization tables",
    "jpeg_double": "jpeg jpg double compression recompressed saved twice",
    "jpeg_ghost": "jpeg jpg ghost ghosts compression resaved",
    "jpeg_grid": "jpeg jpg grid block blocks alignment",
    "noise": "noise noisy grain residual sensor prnu",
    "spectrum": "frequency frequencies spectrum spectral fourier fft",
    "frequency": "frequency frequencies spectrum spectral fourier fft",
    "upsampling": "upsampling upscaling resampling resize enlarged interpolation periodic",
    "jpeg_crop": "jpeg jpg crop cropped shifted grid",
    "npr": "neighbouring neighboring pixels enlarging upsampling generator",
    "whole": "whole expert composition light style overall",
    "edited": "editing expert edited retouched overall",
    "cooccurrence": "co-occurrence cooccurrence residual residuals runs detail",
    "ela": "ela error level",
    "copy_move": "copy move cloned clone duplicated copied",
    "jpeg_votes": "jpeg jpg grid vote votes block blocks",
    "residual_clusters": "residual residuals noise cluster clusters region",
    "cfa": "demosaicing demosaic sensor bayer colour color filter",
    "cfa_part": "demosaicing demosaic sensor bayer colour color filter",
    "chromatic": "chromatic aberration lens fringe fringes",
    "texture_contrast": "texture textures rich poor contrast",
    "thumbnail": "thumbnail preview embedded",
    "faces": "face faces portrait person",
}

_STOP_TEXT = (
    "a about an and any are as at be been but by can could did do does for from had has have how i if "
    "in is it its "
    "just me my of on or our picture image photo photograph please say says said so tell than that the "
    "their them "
    "then there these they this to us was we were what when where which who why will with would you "
    "your mean means "
    "result results much more most not no yes out over value number shows show"
)
_STOP = frozenset(_STOP_TEXT.split())
_PLACES = re.compile(r"\b(upper|top|lower|bottom|cent(?:er|re)|middle|background|foreground|corner)\b")
_SIDES = re.compile(
    r"\b(?:upper|top|lower|bottom|middle|cent(?:er|re)|(?:on|at|in|to|from|of|about) (?:the|its|my))[ -](?:far )?"
    r"(left|right)\b"
    r"|\b(left|right)[ -](?:side|half|part|third|edge|border|corner|hand|eye|ear|arm|leg)\b"
)
"""Left and right as places: bare, as in “Is this right?”, they are none."""
_BOX = re.compile(r"(\d{1,5})\s*[,; ]\s*(\d{1,5})\s*(?:[,; ]|-|to)\s*(\d{1,5})\s*[,; ]\s*(\d{1,5})")


@dataclass(frozen=True, eq=False)
class Reading:
    """How a question was understood.

    Attributes:
        intent: the best scoring intent, ``source`` (about certain evidence) or ``unknown``.
        scores: intent → score, those above 0.
        evidence: evidence that the question names, best first.
        box: a rectangle given in the question (upright pixels), or None.
        places: words for places in the question.
    """

    intent: str
    scores: Mapping[str, float]
    evidence: tuple[Evidence, ...]
    box: Box | None
    places: tuple[str, ...]


def read(question: str, report: Report) -> Reading:
    """Understand a question about a report."""
    text = " ".join(question[:MAX_QUESTION].lower().replace("’", "'").split())
    scores = {intent: _score(text, cues) for intent, cues in INTENTS.items()}
    scores = {intent: score for intent, score in scores.items() if score > 0}
    named = _named(text, report)
    box = _box(text, report)
    sides = [match[1] or match[2] for match in _SIDES.finditer(text)]
    places = tuple(dict.fromkeys([*_PLACES.findall(text), *sides]))
    if box is not None or (places and not scores.keys() - {"where", "why", "thanks"}):
        scores["where"] = scores.get("where", 0.0) + (4.0 if box else 1.5)
    best = max(scores, key=lambda intent: scores[intent], default="unknown")
    about = bool(named) and best not in ("command", "outside", "where", "change", "sure", "verdict", "limits")
    if about or (named and scores.get(best, 0.0) < 1.5):
        best = "source"
    return Reading(best, scores, named, box, places)


def _score(text: str, cues: Mapping[str, float]) -> float:
    return sum(weight for cue, weight in cues.items() if re.search(cue, text))


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z][a-z0-9]+", text.lower().replace("_", " "))} - _STOP


def _named(text: str, report: Report) -> tuple[Evidence, ...]:
    """Evidence that the question names: by id, by words of its source, or by several words of its statement."""
    ids = {f"E{number}" for number in re.findall(r"\be(\d{1,3})\b", text)}
    asked = _words(text)
    scored: list[tuple[float, int, Evidence]] = []
    for place, item in enumerate(report.evidence):
        own = _words(item.source) | _words(SOURCE_WORDS.get(item.source, ""))
        score = 3.0 * (item.id in ids) + 2.0 * len(asked & own)
        score += 0.5 * len(asked & (_words(item.statement) | _words(topic(item.source))))
        if score >= 1.0:
            scored.append((-score, place, item))
    scored.sort(key=lambda entry: entry[:2])
    best = -scored[0][0] if scored else 0.0
    return tuple(item for score, _, item in scored if -score >= 0.6 * best)[:4]


def named_but_absent(question: str, report: Report) -> tuple[str, ...]:
    """Known sources that a question clearly names and this report does not have."""
    asked = _words(question[:MAX_QUESTION])
    present = {item.source for item in report.evidence}
    here = (
        set().union(*(_words(SOURCE_WORDS.get(name, name)) | _words(name) for name in present))
        if present
        else set()
    )
    return tuple(
        name
        for name, words in SOURCE_WORDS.items()
        if name not in present and asked & (set(words.split()) - here)
    )[:1]


def _box(text: str, report: Report) -> Box | None:
    """Four numbers that form a rectangle inside the picture, clipped to it."""
    match = _BOX.search(text)
    if match is None:
        return None
    x0, y0, x1, y1 = (int(value) for value in match.groups())
    x1, y1 = min(x1, report.case.width), min(y1, report.case.height)
    return Box(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
