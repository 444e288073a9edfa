"""SIDA's published models, once converted: three labels from a head, and the prompt of its mask decoder.

SIDA (Huang et al. 2025, "SIDA: Social Media Image Deepfake Detection, Localization and Explanation with Large
Multimodal Model") reads the label from the hidden state that predicts ``[CLS]``, the first token of every answer: the
last token of the prompt. The mask prompt is the state that predicts ``[SEG]`` at the end of "The image is tampered".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmforensics import weights
from vlmforensics.errors import WeightsCorrupt
from vlmforensics.settings import Settings
from vlmforensics.types import LABELS, Pixels
from vlmforensics.vlm.adapters import read_tensors
from vlmforensics.vlm.base import LABEL_HEAD, SEG, TEXT, YES_NO, Look
from vlmforensics.vlm.llava import LlavaBackbone, Prefill
from vlmforensics.vlm.profiles import Profile

HEADS = "heads"
"""Folder beside the checkpoint's files, so that nothing takes its tensors for the model's."""
LABEL_FILE = "label.safetensors"
ANSWER = "The image is tampered"
"""What stands between ``[CLS]`` and ``[SEG]`` in the answers that SIDA was trained on."""


class SidaHead(nn.Module):
    """Logits (B, 3) of real, synthetic, tampered from states (B, d): Linear(d, d/2) → ReLU → Linear(d/2, 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width // 2)
        self.outer = nn.Linear(width // 2, len(LABELS))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Unnormalised logits."""
        logits: torch.Tensor = self.outer(torch.relu(self.inner(state)))
        return logits

    @classmethod
    def load(cls, path: Path) -> SidaHead:
        """Read strictly from a file that ``convert_sida`` wrote.

        Raises:
            WeightsCorrupt: broken, or other keys or shapes.
        """
        tensors = read_tensors(path)
        try:
            head = cls(int(tensors["inner.weight"].shape[1]))
            head.load_state_dict(tensors)
        except (KeyError, RuntimeError) as error:
            raise WeightsCorrupt(f"{path} is not a label head of SIDA: {error}") from error
        return head.float().eval().requires_grad_(False)


class SidaBackbone(LlavaBackbone):
    """See ``vlm.base.Backbone``; loaded from a folder that ``convert_sida`` wrote.

    Attributes:
        head: reads the label.
        mask_heads: folder of its mask decoder, for ``masks.sida``.
    """

    capabilities = frozenset({LABEL_HEAD, SEG, TEXT, YES_NO})

    def __init__(self, model: Any, processor: Any, **arguments: Any) -> None:
        super().__init__(model, processor, **arguments)
        marks = self.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEG]"])
        if None in marks or len({*marks, self.tokenizer.unk_token_id}) < 3:
            raise WeightsCorrupt(f"the tokenizer of {self.name} does not know [CLS] and [SEG]")
        self._answer = [marks[0], *self.tokenizer.encode(ANSWER, add_special_tokens=False)]
        self.head: SidaHead | None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        settings: Settings | None = None,
        *,
        name: str,
        profile: Profile | None = None,
        adapter: Path | None = None,
    ) -> SidaBackbone:
        """As :meth:`LlavaBackbone.load`, with the label head beside the checkpoint.

        Raises:
            WeightsUnavailable, WeightsCorrupt, AdapterMismatch: files missing, broken or not fitting.
            ModelError: it does not fit into memory.
        """
        head = SidaHead.load(folder / HEADS / LABEL_FILE)
        made = super().load(folder, settings, name=name, profile=profile)
        assert isinstance(made, cls)  # noqa: S101 - for the type checker
        if head.inner.in_features != made.model.config.get_text_config().hidden_size:
            raise WeightsCorrupt(f"the label head in {folder / HEADS} is of another width than the model")
        made.head = head.to(made.device)
        made.mask_heads = made._bare_masks = folder / HEADS
        whole = weights.combine(made.weights_sha256, weights.folder_digest(folder / HEADS, settings))
        made.rename(name, whole)
        if adapter is not None:
            made.use_adapter(adapter)
        return made

    def _look(self, batch: Sequence[Pixels], hints: Sequence[Sequence[str]], *, for_text: bool) -> list[Look]:
        if self.head is None:
            raise WeightsCorrupt(f"{self.name} has no label head")
        asked = [self._asked(said) for said in hints]
        inputs = self._inputs(batch, [self._prompt(question) for question in asked])
        self._check_length(inputs)
        with self.lock, torch.inference_mode(), self._memory():
            read = self.reader.prefill(inputs)
            scores = torch.log_softmax(self.head(read.state.float()), -1).tolist()
            answered = self.reader.feed(read, self._answer)
            prompts = answered.state.float().cpu().numpy()
            self.reader.forget(answered, len(self._answer))
        ids = [int(i) for i in inputs["input_ids"][0]]
        state = Prefill(ids, read, asked[0], self._era) if for_text else None
        return [
            Look((real, synthetic, tampered), seg=seg, state=state)
            for (real, synthetic, tampered), seg in zip(scores, prompts, strict=True)
        ]
