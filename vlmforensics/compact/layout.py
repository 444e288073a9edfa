"""The fixed facts of the compact model: sizes, layers, tokens. All else is looked up in its configuration."""

from __future__ import annotations

SIDE = 224
"""Side of the square that the language model's tower looks at, in pixels."""
PATCH = 14
"""Side of one tower patch in pixels."""
GRID = SIDE // PATCH
"""Patches per side of that square: 16, so 256 image tokens."""
FEATURE_LAYERS = (4, 8, 10, 12)
"""Tower layers (after that many blocks, before the final norm) whose patch features are concatenated.

Middle layers carry more about generation than the last one, so the projector gets both.
"""
FEATURE_SCALES = (0.05, 0.14, 0.32, 2.1)
"""Root mean square of those layers' features on photographs; the projector's start divides by it."""
EMBEDDING_SCALE = 0.14
"""Standard deviation of the language model's word embeddings, which projected picture tokens start with."""
CLS_LAYER = 8
"""Language-model layers below the label head; the narrator owns those above."""
READINGS = 2
"""Experts whose log-odds the language model is told at ``[CLS]`` (``whole.EXPERTS``)."""
READING_SCALE = 4.0
"""Log-odds that count as one there: about their deviation over pictures of unseen sources."""
READING_MOST = 3.0
"""Furthest that a reading counts, in that unit: no expert can drown the picture."""
TOWER_WIDTH = 384
LANGUAGE_WIDTH = 576
MEAN = (0.485, 0.456, 0.406)
"""ImageNet channel means (RGB, of 0..1 values), as DINOv2 was trained with."""
STD = (0.229, 0.224, 0.225)
"""ImageNet channel deviations."""

IMAGE_TOKEN = "<image>"  # noqa: S105 - a word of the vocabulary, not a secret
CLS_TOKEN = "[CLS]"  # noqa: S105
SEG_TOKEN = "[SEG]"  # noqa: S105
RESERVED = {
    IMAGE_TOKEN: "<empty_output>",
    CLS_TOKEN: "<jupyter_output>",
    SEG_TOKEN: "<jupyter_script>",
}
"""Our tokens → the reserved words of SmolLM2's vocabulary whose rows they take; no embedding is resized."""
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
PAD_TOKEN = "<|endoftext|>"  # noqa: S105

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% elif part['type'] == 'marks' %}{{ '[CLS][SEG]' }}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML without a system turn; a part of type ``marks`` stands for the two tokens that the heads read."""
