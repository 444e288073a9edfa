"""The storyteller: words what fusion decided, citing evidence; it can't decide anything itself.

``explain`` streams the explanation of a report, ``answer`` replies to questions about it. Whatever a language
model writes is checked sentence by sentence (``verify``) before it is shown. ``narration`` holds what the
narrator is told and reference texts to train one.
"""

from vlmforensics.explain.answers import AnswerStream, answer
from vlmforensics.explain.direction import Balance, balance, direction, speaks_for, without
from vlmforensics.explain.remarks import remark_evidence
from vlmforensics.explain.stream import ExplanationStream, explain
from vlmforensics.explain.together import explain_many
from vlmforensics.explain.verify import Check, verify
from vlmforensics.explain.wording import strength_told

__all__ = [
    "AnswerStream",
    "Balance",
    "Check",
    "ExplanationStream",
    "answer",
    "balance",
    "direction",
    "explain",
    "explain_many",
    "remark_evidence",
    "speaks_for",
    "strength_told",
    "verify",
    "without",
]
