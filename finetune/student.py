"""The model in training: LLaVA with its adapter, the heads on ``[CLS]`` and ``[SEG]``, and their joint loss.

One module with one ``forward``, so that gradients of all parts are averaged alike under DDP. Losses are sums over the
samples (or answer tokens) of this process divided by the number in the whole step, over processes and accumulated
batches: two processes give the gradient that one gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmforensics.compact.forward import core_of, state_at
from vlmforensics.compact.heads import LabelHead
from vlmforensics.errors import AdapterMismatch, Defect
from vlmforensics.finetune.mask_objective import LossWeights, map_loss, outline
from vlmforensics.finetune.recipe import Loss
from vlmforensics.finetune.train_prompts import IGNORED
from vlmforensics.masks.network import MaskNetwork, Prediction
from vlmforensics.types import LABELS

PARTS = ("language", "label", "mask")


def tower_features(core: Any, pixel_values: Tensor) -> Tensor:
    """What the projector reads: (B, places, channels), selected as the checkpoint's configuration says."""
    seen = core.model.vision_tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
    layers = core.config.vision_feature_layer
    first = 1 if core.config.vision_feature_select_strategy == "default" else 0
    chosen = [layers] if isinstance(layers, int) else list(layers)
    return torch.cat([seen[layer][:, first:] for layer in chosen], dim=-1)


class Student(nn.Module):
    """See the module.

    Args:
        llava: the LLaVA, wrapped by peft or not.
        loss: weights of the losses.
        head: on ``[CLS]``.
        masks: prompted by ``[SEG]``; its encoder stays as it is, so embeddings are handed over.
        marks: ids of ``[CLS]`` and ``[SEG]``.
        layer: language-model layer that the heads read; -1 = the last.
        frozen_tower: keep the tower as it is.
        samples: in one optimiser step, over all processes.
    """

    def __init__(
        self,
        llava: Any,
        loss: Loss,
        *,
        head: LabelHead | None = None,
        masks: MaskNetwork | None = None,
        marks: tuple[int, int] | None = None,
        layer: int = -1,
        frozen_tower: bool = True,
        samples: int = 1,
    ) -> None:
        super().__init__()
        self.llava, self.head, self.masks = llava, head, masks
        self.loss, self.marks, self.layer = loss, marks, layer
        self.frozen_tower, self.samples = frozen_tower, samples
        self.tally = {part: torch.zeros(()) for part in PARTS}
        self.confusion = torch.zeros(len(LABELS), len(LABELS), dtype=torch.long)

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for what is frozen."""
        super().train(mode)
        if self.frozen_tower:
            core_of(self.llava).model.vision_tower.eval()
        if self.masks is not None:
            self.masks.encoder.eval()
        return self

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        label: Tensor,
        features: Tensor | None = None,
        pixel_values: Tensor | None = None,
        embedding: Tensor | None = None,
        coarse: Tensor | None = None,
        target: Tensor | None = None,
        has_target: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unused: Any,
    ) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            input_ids: int64 (B, T), padded on the right.
            attention_mask: int64 (B, T).
            labels: int64 (B, T), ``IGNORED`` outside the answers.
            label: int64 (B,), index into ``types.LABELS``.
            features: (B, places, channels) of the frozen tower, or
            pixel_values: (B, 3, H, W) for a tower that learns.
            embedding: of the mask encoder, (B, C, 64, 64).
            coarse: of the mask encoder, (B, 1, 64, 64).
            target: float (B, SIDE, SIDE), share of each cell that is tampered.
            has_target: bool (B,), False where it is not known.
            num_items_in_batch: answer tokens of the whole step; of this batch where not given (validation).
            unused: what a trainer may add.
        """
        core = core_of(self.llava)
        if features is None:
            features = tower_features(core, _given(pixel_values))
        embeddings = core.get_input_embeddings()(input_ids)
        picture = core.model.multi_modal_projector(features.to(self._float(embeddings)))
        places = core.model.get_placeholder_mask(input_ids, inputs_embeds=embeddings, image_features=picture)
        output = core.model.language_model(
            inputs_embeds=embeddings.masked_scatter(places, picture.to(embeddings.dtype)),
            attention_mask=attention_mask,
            use_cache=False,
            output_hidden_states=self.layer != -1 and self.marks is not None,
        )
        states = output.last_hidden_state
        losses: dict[str, Tensor] = {}
        if self.loss.language:
            losses["language"] = self._language(core, states, labels, num_items_in_batch)
        if self.head is not None and self.marks is not None:
            read = states if self.layer == -1 else output.hidden_states[self.layer]
            count = self.samples if num_items_in_batch is not None else len(input_ids)
            logits = self.head(state_at(read, input_ids, self.marks[0]).float())
            losses["label"] = F.cross_entropy(logits, label, reduction="sum") / count
            if not self.training:
                self._count(label, logits)
            if self.masks is not None:
                seg = state_at(read, input_ids, self.marks[1]).float()
                log_probs = torch.log_softmax(logits.detach(), -1)
                maps = [_given(value) for value in (embedding, coarse, target, has_target)]
                losses["mask"] = self._mask(self.masks, seg, log_probs, *maps) / count
        if self.training:
            for part, value in losses.items():
                self.tally[part] = self.tally[part] + value.detach().float().cpu()
        total = sum(getattr(self.loss, part) * value for part, value in losses.items())
        return {"loss": total} if isinstance(total, Tensor) else {"loss": states.sum() * 0}

    @staticmethod
    def _float(embeddings: Tensor) -> torch.dtype:
        return embeddings.dtype if embeddings.dtype.is_floating_point else torch.float32

    @staticmethod
    def _language(core: Any, states: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
        """Cross-entropy of the answers; logits are made only where one is learned (the vocabulary is wide)."""
        following = labels[:, 1:]
        learned = following != IGNORED
        logits = core.lm_head(states[:, :-1][learned]).float()
        summed = F.cross_entropy(logits, following[learned], reduction="sum")
        return summed / (items if items is not None else learned.sum().clamp(min=1))

    @staticmethod
    def _mask(
        masks: MaskNetwork,
        seg: Tensor,
        log_probs: Tensor,
        embedding: Tensor,
        coarse: Tensor,
        target: Tensor,
        known: Tensor,
    ) -> Tensor:
        """BCE + Dice, outline and presence, summed over the pictures whose target is known."""
        summed = seg.new_zeros(())
        for row in range(len(seg)):
            said = masks.decode(
                embedding[row : row + 1].float(),
                coarse[row : row + 1].float(),
                seg[row],
                log_probs[row],
                (),
                None,
            )
            summed = summed + mask_loss(said, target[row]) * known[row]
        return summed

    def _count(self, label: Tensor, logits: Tensor) -> None:
        for truth, said in zip(label.tolist(), logits.argmax(-1).tolist(), strict=True):
            self.confusion[truth, said] += 1

    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters that learn, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What a checkpoint holds: the parameters that learn; the frozen base lies elsewhere."""
        del args, kwargs
        return {name: p.detach() for name, p in self.trained().items()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Put a checkpoint back; every parameter must be there and fit, whatever ``strict`` says.

        Raises:
            AdapterMismatch: names differ, or shapes.
        """
        del strict, assign
        own = self.trained()
        odd = sorted(set(own) ^ set(state_dict)) or [k for k in own if own[k].shape != state_dict[k].shape]
        if odd:
            raise AdapterMismatch(f"the checkpoint belongs to another recipe or base: {', '.join(odd[:3])}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state_dict[name])
        return torch.nn.modules.module._IncompatibleKeys([], [])


def _given(value: Tensor | None) -> Tensor:
    if value is None:
        raise Defect("the collator must hand over features or pixel values, and what the mask decoder reads")
    return value


def mask_loss(said: Prediction, target: Tensor, weights: LossWeights | None = None) -> Tensor:
    """Loss of one picture's map against ``target`` (SIDE, SIDE): BCE + Dice, outline, presence of tampering."""
    weights = weights or LossWeights()
    edge = F.binary_cross_entropy_with_logits(said.edge, outline(target))
    present = (target.max() > 0).to(said.presence.dtype).expand_as(said.presence)
    presence = F.binary_cross_entropy_with_logits(said.presence, present)
    return map_loss(said.mask, target, weights) + weights.edge * edge + weights.presence * presence
