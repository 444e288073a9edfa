"""GPU memory and hours of a recipe, estimated from parameter counts; nothing here was measured on a GPU.

Counts follow from LLaVA-1.5-7B's published sizes. Memory is weights + what the optimiser keeps + activations under
gradient checkpointing + a margin; hours are arithmetic over an assumed share of a card's stated peak. Both are printed
as estimates, with their assumptions in this file.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlmforensics.finetune.recipe import Recipe, load_recipe

GIB = 1 << 30
CARDS = (8, 16, 24, 80)
"""Memory of the cards in the table, GB as sold (GiB)."""
BATCHES = (32, 16, 8, 4, 2, 1)
CONTEXT = 0.7 * GIB
"""CUDA context and libraries' workspaces."""
MARGIN = 1.1
"""Fragmentation of the caching allocator."""
NF4 = 0.5 + 0.127 / 8
"""Bytes per quantised parameter: 4 bits and 0.127 bits of doubly quantised scales (Dettmers et al. 2023, QLoRA)."""
LEARNED = 256
"""Answer tokens of a sample: logits exist for these alone."""
TFLOPS = {8: 40, 16: 65, 24: 71, 80: 312}
"""Peak dense 16-bit tera-operations a second of a common card: RTX 3070 (tensor, fp32 sums), T4, RTX 3090, A100."""
UTILISATION = {"nf4": 0.2, "bf16": 0.35, "fp32": 0.35}
"""Share of the peak that is reached, assumed: de-quantising costs; values usual for 7B models with checkpointing."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA: language model, tower (CLIP), their widths and depths."""

    hidden: int = 4096
    inner: int = 11008
    layers: int = 32
    vocabulary: int = 32064
    tower: int = 1024
    tower_inner: int = 4096
    tower_layers: int = 24
    tower_places: int = 577
    patch: int = 14

    @property
    def linears(self) -> int:
        """Weights of the language model's projections: what nf4 quantises and LoRA adapts."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.inner)

    @property
    def words(self) -> int:
        """Embedding and output head, norms with them."""
        return 2 * self.vocabulary * self.hidden + (2 * self.layers + 1) * self.hidden

    @property
    def projector(self) -> int:
        """Two linear layers with biases."""
        return self.tower * self.hidden + self.hidden + self.hidden**2 + self.hidden

    @property
    def vision(self) -> int:
        """CLIP's vision tower: patches, positions, blocks with biases and norms, two outer norms, class token."""
        d, i = self.tower, self.tower_inner
        block = 4 * (d * d + d) + 2 * d * i + i + d + 4 * d
        return 3 * self.patch**2 * d + self.tower_places * d + self.tower_layers * block + 5 * d

    @property
    def total(self) -> int:
        """All parameters."""
        return self.linears + self.words + self.projector + self.vision

    def lora(self, rank: int, modules: tuple[str, ...]) -> int:
        """Values of LoRA's two factors over all layers."""
        ends = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), 2 * self.hidden)
        ends |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.hidden + self.inner)
        return self.layers * rank * sum(ends[name] for name in modules)


@dataclass(frozen=True)
class Estimate:
    """Bytes of one card, by use."""

    weights: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        """All of it, with context and margin."""
        return (self.weights + self.optimiser + self.activations) * MARGIN + CONTEXT


def trainable(recipe: Recipe, shape: Shape) -> int:
    """Parameters of the 7B model that learn under a recipe (heads of some 10 M are counted where there are any)."""
    learn = recipe.learn
    count = shape.projector if learn.projector else 0
    count += shape.vision if learn.tower else 0
    if learn.language == "lora":
        count += shape.lora(learn.rank, learn.modules)
    elif learn.language == "full":
        count += shape.linears + shape.words
    return count + (10_000_000 if recipe.heads.label else 0)


def estimate(recipe: Recipe, shape: Shape, *, form: str, batch: int, tokens: int) -> Estimate:
    """Memory of one card.

    Args:
        recipe: what learns, which optimiser, whether gradients are checkpointed.
        shape: of the base.
        form: of frozen weights: ``nf4``, ``bf16``; ``fp32`` where all learns.
        batch: samples at once.
        tokens: of a sample, the picture's 576 included.
    """
    learned = trainable(recipe, shape)
    plain = shape.words + shape.projector + shape.vision
    weights = shape.linears * NF4 + plain * 2 if form == "nf4" else shape.total * (2 if form == "bf16" else 4)
    if recipe.learn.language != "full":
        weights += learned * 4  # 32-bit copies of what learns lie beside the frozen base
    moments = 2 if "8bit" in recipe.optimiser.name else 8
    kept = batch * tokens * shape.hidden * 2 * shape.layers  # one 16-bit state a layer
    # Within the layer that is recomputed: four states of the hidden width for attention, norms and residuals, their
    # gradients, and three of the inner width, in 16 bits.
    inside = batch * tokens * (16 * shape.hidden + 6 * shape.inner) * 2
    if not recipe.memory.gradient_checkpointing:
        inside *= shape.layers
    logits = batch * min(tokens, LEARNED) * shape.vocabulary * 4 * 3
    tower = 0
    if recipe.learn.tower:
        tower = batch * shape.tower_places * shape.tower * 2 * (shape.tower_layers + 34)
    return Estimate(weights, learned * (4 + moments), kept + inside + logits + tower)


def fit(recipe: Recipe, gigabytes: int, shape: Shape, tokens: int) -> tuple[str, int, Estimate] | None:
    """The best way that fits on one card: 16 bits before nf4, then the largest batch up to the recipe's step."""
    if recipe.learn.language == "full":
        forms = ["fp32"]
    else:
        forms = ["bf16"] if recipe.memory.quantisation == "none" else ["bf16", "nf4"]
    most = recipe.optimiser.batch * recipe.optimiser.accumulate
    for form in forms:
        for batch in (size for size in BATCHES if size <= most):
            found = estimate(recipe, shape, form=form, batch=batch, tokens=tokens)
            if found.total <= gigabytes * GIB:
                return form, batch, found
    return None


def hours(shape: Shape, *, samples: int, tokens: int, tflops: float, form: str) -> float:
    """Hours of one card: 2 N a token forward, 2 N recomputed, 2 N backward through frozen weights (N parameters).

    A full run has 2 N more for the weights' own gradients.
    """
    operations = (8 if form == "fp32" else 6) * (shape.linears + shape.words / 2) * samples * tokens
    return operations / (tflops * 1e12 * UTILISATION[form]) / 3600


def table(tokens: int = 1024, samples: int = 10_000) -> str:
    """A Markdown table: recipe × card, with number format, batch, memory and hours for ``samples``; all estimates."""
    shape = Shape()
    head = ["recipe", "learns", *(f"{card} GB" for card in CARDS)]
    rows = []
    for name in ("sida-7b", "x2dfd-7b", "fakevlm-7b", "fakevlm-7b-full"):
        recipe = load_recipe(name)
        cells = [name, f"{trainable(recipe, shape) / 1e6:,.0f} M"]
        for card in CARDS:
            found = fit(recipe, card, shape, tokens)
            if found is None:
                cells.append("no")
                continue
            form, batch, memory = found
            spent = hours(shape, samples=samples, tokens=tokens, tflops=TFLOPS[card], form=form)
            cells.append(f"{form}, batch {batch}: {memory.total / GIB:.1f} GB, {spent:.1f} h")
        rows.append(cells)
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"Estimates for LLaVA-1.5-7B, {tokens} tokens a sample, hours for a pass over {samples:,} samples:\n\n{text}"
