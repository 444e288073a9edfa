"""Vision-language models behind one protocol: the embedded one, local LLaVA-family checkpoints, remote servers."""

from vlmforensics.vlm.base import LABEL_HEAD, LABEL_WORDS, SEG, TEXT, Backbone, Look
from vlmforensics.vlm.loader import BACKBONES, load_backbone
from vlmforensics.vlm.scripted import ScriptedBackbone

__all__ = [
    "BACKBONES",
    "LABEL_HEAD",
    "LABEL_WORDS",
    "SEG",
    "TEXT",
    "Backbone",
    "Look",
    "ScriptedBackbone",
    "load_backbone",
]
