"""The assistant: the one object through which command line, batch, page and evaluation examine pictures."""

from vlmforensics.assistant.core import Assistant, Progress, Stop
from vlmforensics.assistant.parts import BlendingWitness, MaskWitness, Parts, gate_features, load_parts

__all__ = [
    "Assistant",
    "BlendingWitness",
    "MaskWitness",
    "Parts",
    "Progress",
    "Stop",
    "gate_features",
    "load_parts",
]
