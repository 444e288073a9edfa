"""Commands around training a recipe: ``recipes``, ``train``, ``export``, ``memory``, ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Threads = Annotated[int, typer.Option(help="CPU threads; 0 = as torch chooses.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="A shipped recipe's name, or a TOML file.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE replaces a value of the recipe; may be repeated.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (recipes, train, export, memory, bench):
        app.command()(command)
    app.command("hint-ablation")(hint_ablation)


def recipes() -> None:
    """List the shipped recipes."""
    from vlmforensics.finetune.recipe import load_recipe, shipped

    for name in shipped():
        recipe = load_recipe(name)
        typer.echo(f"{name:16} {recipe.about}")


def train(
    recipe: RecipeName,
    data: Annotated[Path, typer.Option(help="Samples, one JSON object a line.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, curve and adapter.")],
    validation: Annotated[Path | None, typer.Option(help="Samples to measure on after each pass.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Another base: backbone name or checkpoint folder.")
    ] = None,
    change: Changes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last complete checkpoint.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Threads = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
) -> None:
    """Train a recipe on samples; see docs/finetuning.md."""
    import json

    from vlmforensics.finetune.progress import show_progress
    from vlmforensics.finetune.recipe import load_recipe
    from vlmforensics.finetune.train import Job
    from vlmforensics.finetune.train import train as run
    from vlmforensics.settings import load_settings

    show_progress()
    changes = [*(change or []), *([f"base={json.dumps(base)}"] if base else [])]
    settings = load_settings(threads=threads, device=device, offline=offline)
    folder = run(Job(load_recipe(recipe, changes), data, out, validation, resume, settings))
    typer.echo(f"wrote {folder}")


def export(
    adapter: Annotated[Path, typer.Argument(help="Folder that training wrote (OUT/adapter).")],
    out: Annotated[Path, typer.Option(help="New folder for the merged checkpoint.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
) -> None:
    """Merge an adapter into a standard checkpoint folder that ``from_pretrained`` and ``--model`` open."""
    from vlmforensics.finetune.adapters import export as merge
    from vlmforensics.settings import load_settings

    typer.echo(f"wrote {merge(adapter, out, load_settings(offline=offline), dtype=dtype)}")


def memory(
    tokens: Annotated[int, typer.Option(help="Tokens of a sample, the picture's included.")] = 1024,
) -> None:
    """What each recipe needs on a GPU of 8, 16, 24 and 80 GB: estimates from parameter counts."""
    from vlmforensics.finetune.train_memory import table

    typer.echo(table(tokens))


def bench(
    base: Annotated[str, typer.Option(help="Backbone name or checkpoint folder.")] = "compact",
    steps: Annotated[int, typer.Option(help="Timed steps of each loop, per round.")] = 8,
    rounds: Annotated[int, typer.Option(help="Rounds; the loops take turns.")] = 3,
    threads: Threads = 0,
) -> None:
    """Time a training step against a bare PyTorch loop on the same tensors; prints the ratio."""
    from vlmforensics.finetune.train_bench import compare
    from vlmforensics.settings import load_settings

    typer.echo(compare(base, load_settings(threads=threads), steps=steps, rounds=rounds))


def hint_ablation(
    model: Annotated[str, typer.Option(help="Backbone name, checkpoint or adapter folder.")],
    data: Annotated[Path, typer.Option(help="Samples with hints that the model has not seen.")],
    limit: Annotated[int, typer.Option(help="Most samples; 0 takes all.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Threads = 0,
    seed: int = 0,
) -> None:
    """Ask with each picture's own detector sentences, with none and with another's; prints JSON."""
    import json

    from vlmforensics.finetune.hint_ablation import ablate
    from vlmforensics.finetune.samples import read_samples
    from vlmforensics.settings import load_settings
    from vlmforensics.vlm import load_backbone

    samples = list(read_samples(data))
    if limit and limit < len(samples):
        samples = samples[:: -(-len(samples) // limit)]
    backbone = load_backbone(model, load_settings(threads=threads, device=device))
    typer.echo(json.dumps(ablate(backbone, samples, seed=seed), indent=1))
