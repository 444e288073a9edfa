"""``vlmforensics finetune``: prepare features, train, calibrate. Thin: each command calls one function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmforensics.finetune import data_cli

app = typer.Typer(
    no_args_is_help=True, help="Train and calibrate on labelled pictures.", pretty_exceptions_enable=False
)

Data = Annotated[Path, typer.Option(help="Folder with manifest.jsonl and the pictures.")]
Cache = Annotated[Path, typer.Option(help="Folder for cached features.")]
FOLDS = 5


@app.callback()
def group() -> None:
    """Train and calibrate on labelled pictures."""


@app.command()
def prepare(
    data: Data,
    cache: Cache,
    variant: Annotated[
        list[str],
        typer.Option(help="raw, equalised, augmented-N, made-N or made-equalised; may be repeated."),
    ],
    part: Annotated[
        str, typer.Option(help="Share of the work as I/N, to run N processes side by side.")
    ] = "0/1",
    chosen: Annotated[
        bool, typer.Option(help="Only the pictures that calibration and the card look at.")
    ] = False,
    feature: Annotated[
        list[str] | None, typer.Option(help="Only this feature, as `whole` for the experts; may be repeated.")
    ] = None,
    threads: int = 1,
) -> None:
    """Compute and cache what the frozen towers and the fixed statistics say of every picture; resumes by itself."""
    from vlmforensics.compact import clip
    from vlmforensics.compact.assembly import build_base
    from vlmforensics.finetune.features import NAMES, compute
    from vlmforensics.finetune.observe import choose
    from vlmforensics.finetune.pictures import assign_folds, load_manifest, share_of
    from vlmforensics.settings import load_settings

    pictures = load_manifest(data)
    folds = assign_folds(pictures, FOLDS)
    only = None
    if chosen:
        only = {p.sha256 for _, p in choose(pictures, ["raw"], real=REAL, synthetic=SYNTHETIC)}
    settings = load_settings(threads=threads)
    tower, expert = build_base(settings).tower, clip.load(settings)
    for name in variant:
        job = compute(
            tower,
            expert,
            pictures,
            folds,
            cache,
            name,
            part=share_of(part),
            only=only,
            names=feature or NAMES,
        )
        for line in job:
            typer.echo(line)


TRAINING = ("equalised", "augmented-1", "made-1")
"""Variants that the compact model's parts are trained and scored on."""
REAL, SYNTHETIC = 30, 8
"""Most pictures a source that calibration and the card look at: real ones of held-back sources, synthetic ones."""
GROUPS = ((0, 1), (2, 3), (4,))
"""Folds that are left out together: each picture is scored by a model that saw nothing of its family."""


@app.command()
def label(
    data: Data,
    cache: Cache,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and scores.")],
    left_out: Annotated[
        int, typer.Option(help="Group of folds to leave out and score; -1 trains on all and ships.")
    ] = -1,
    epochs: float = 1.0,
    threads: int = 0,
    seed: int = 0,
    resume: bool = True,
) -> None:
    """Train the compact model's label path, see ``compact_label``; goes on from a checkpoint of the same run."""
    import numpy as np

    from vlmforensics.compact.assembly import build_base
    from vlmforensics.compact.shipped import DATA, save_shipped
    from vlmforensics.finetune import compact_label as training
    from vlmforensics.finetune import compact_whole
    from vlmforensics.finetune.observe import choose
    from vlmforensics.finetune.pictures import assign_folds, load_manifest
    from vlmforensics.finetune.progress import show_progress
    from vlmforensics.settings import load_settings

    show_progress()
    pictures = load_manifest(data)
    folds = dict(zip((p.sha256 for p in pictures), assign_folds(pictures, FOLDS), strict=True))
    omitted = GROUPS[left_out] if left_out >= 0 else ()
    known = training.samples_of(pictures, cache, (*TRAINING, "made-equalised"))
    samples, features = compact_whole.read_all(known, cache, "whole")
    home = np.array([folds[s.picture.sha256] for s in samples])
    tasks = compact_whole.TASKS.values()
    readings = np.stack(
        [compact_whole.unseen_scores(task, features, samples, home, omitted) for task in tasks], axis=1
    )
    del features
    asked = np.array([s.variant in TRAINING for s in samples])
    learnt, tested = (np.flatnonzero(asked & (np.isin(home, omitted) == held)) for held in (False, True))
    train, test = ([samples[i] for i in rows] for rows in (learnt, tested))
    recipe = training.LabelRecipe(label_epochs=epochs, seed=seed)
    parts = build_base(load_settings(threads=threads), seed=seed)
    memory = training.Memory(train, cache, readings[learnt])
    training.train_label(parts, memory, train, recipe, out, resume=resume)
    if omitted:
        training.write_scores(out / "scores.json", training.score(parts, cache, test, readings[tested]))
        few = {(v, p.sha256) for v, p in choose(pictures, ["equalised"], real=REAL, synthetic=SYNTHETIC)}
        some = [s for s in test if (s.variant, s.picture.sha256) in few]
        training.write_scores(out / "alone.json", training.score(parts, cache, some))
        typer.echo(f"wrote scores of {len(test)} samples, and of {len(some)} without readings, into {out}")
        return
    facts = {
        "command": f"vlmforensics finetune label --epochs {epochs:g} --seed {seed}",
        "samples": len(train),
        "variants": list(TRAINING),
        "recipe": vars(recipe),
    }
    save_shipped(DATA, parts, version="2", training=facts)
    typer.echo(f"wrote {DATA}")


@app.command()
def narrator(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for lessons, checkpoints and what was said in a check.")],
    pictures: Annotated[int, typer.Option(help="Pictures to learn from, examined first.")] = 160,
    epochs: float = 1.5,
    kept: Annotated[int, typer.Option(help="Image tokens shown in a step, of 256; fewer are faster.")] = 256,
    onward: Annotated[bool, typer.Option(help="Begin with the narrator that is shipped.")] = False,
    part: Annotated[str, typer.Option(help="Only examine share I/N of the pictures.")] = "",
    check: Annotated[
        int,
        typer.Option(help="Instead: tell of so many pictures of the fold left out, and count what passes."),
    ] = 0,
    ship: Annotated[bool, typer.Option(help="Replace the package's weights.")] = True,
    threads: int = 0,
    seed: int = 0,
    resume: bool = True,
) -> None:
    """Train the compact model's narrator, see ``compact_narrator``; goes on from a checkpoint of the same run."""
    from vlmforensics.assistant import Assistant
    from vlmforensics.compact.shipped import DATA, read_manifest, save_shipped
    from vlmforensics.finetune import compact_narrator as training
    from vlmforensics.finetune.observe import donors_of
    from vlmforensics.finetune.pictures import assign_folds, load_manifest, share_of
    from vlmforensics.finetune.progress import show_progress
    from vlmforensics.settings import load_settings

    show_progress()
    known = load_manifest(data)
    folds = assign_folds(known, FOLDS)
    recipe = training.NarratorRecipe(epochs=epochs, kept_tokens=kept, seed=seed)
    settings = load_settings(threads=threads, sandbox=False)
    last = FOLDS - 1
    if check:
        tested = [p for p, fold in zip(known, folds, strict=True) if fold == last]
        assistant = Assistant.load(settings=settings)
        told = training.validate(assistant, training.drawn(tested, check), out)
        typer.echo(f"{told}")
        return
    learnt = training.drawn([p for p, fold in zip(known, folds, strict=True) if fold != last], pictures)
    index, count = share_of(part or "0/1")
    assistant = Assistant.load(settings=settings)
    for line in training.fill(
        out / "lessons", assistant, learnt[index::count], donors_of(known, folds), recipe
    ):
        typer.echo(line)
    if part:
        return
    del assistant
    lessons = training.read(out / "lessons", learnt)
    facts = dict(read_manifest(DATA)["training"])
    before = training.shipped_narrator(DATA) if onward else {}
    tensors = training.train(
        training.untaught(DATA, settings), lessons, recipe, out, resume=resume, start=before
    )
    command = f"vlmforensics finetune narrator --pictures {pictures} --epochs {epochs:g} --kept {kept} --seed {seed}"
    stage = {"command": command + " --onward" * bool(before), "lessons": len(lessons), "recipe": vars(recipe)}
    facts["narrator"] = [*(facts.get("narrator", []) if before else []), stage]
    target = DATA if ship else out / "export"
    whole = training.with_narrator(DATA, tensors, settings)
    save_shipped(target, whole, version="3", training=facts, settings=settings)
    typer.echo(f"wrote {target}")


@app.command()
def experts(
    data: Data,
    cache: Cache,
    work: Annotated[Path, typer.Option(help="Folder for unseen-source scores, one folder an expert.")],
    ship: Annotated[bool, typer.Option(help="Replace the package's weights.")] = True,
) -> None:
    """Train the experts on the whole picture on all pictures, and score each picture with its family left out."""
    import numpy as np
    from safetensors.numpy import save_file

    from vlmforensics.compact.shipped import DATA
    from vlmforensics.compact.whole import FILE
    from vlmforensics.finetune import compact_whole as training
    from vlmforensics.finetune.compact_label import samples_of, write_scores
    from vlmforensics.finetune.pictures import assign_folds, load_manifest

    pictures = load_manifest(data)
    folds = dict(zip((p.sha256 for p in pictures), assign_folds(pictures, FOLDS), strict=True))
    known = samples_of(pictures, cache, (*TRAINING, "made-equalised", "raw"))
    samples, features = training.read_all(known, cache, "whole")
    home = np.array([folds[s.picture.sha256] for s in samples])
    tensors: dict[str, np.ndarray] = {}
    for name, task in training.TASKS.items():
        weights = training.fit(task, features, samples)
        unseen = training.unseen_scores(task, features, samples, home)
        tensors |= {f"{name}.{key}": value for key, value in weights.items()}
        scores = {(s.variant, s.picture.sha256): [float(v)] for s, v in zip(samples, unseen, strict=True)}
        (work / name).mkdir(parents=True, exist_ok=True)
        write_scores(work / name / "scores.json", scores)
        learnt = sum(task.learns(sample) for sample in samples)
        typer.echo(f"wrote {work / name / 'scores.json'}; {len(samples)} samples, learnt from {learnt}")
    if ship:
        save_file(tensors, DATA / FILE)
        (DATA / FILE).chmod(0o644)
        typer.echo(f"wrote {DATA / FILE}")


@app.command()
def observe(
    data: Data,
    out: Annotated[Path, typer.Option(help="JSON lines file; further runs append what is missing.")],
    variant: Annotated[list[str] | None, typer.Option(help="As for prepare; may be repeated.")] = None,
    witnesses: Annotated[
        str,
        typer.Option(
            help="`signals`, `blending` (with them, all that is calibrated), `networks` (blending, mask) or `all`."
        ),
    ] = "signals",
    real: Annotated[int, typer.Option(help="Most real pictures a held-back source.")] = REAL,
    synthetic: Annotated[int, typer.Option(help="Most synthetic pictures a source.")] = SYNTHETIC,
    rest: Annotated[
        bool, typer.Option(help="The pictures that are not looked at without this option.")
    ] = False,
    again: Annotated[
        str,
        typer.Option(help="Instead: read this one signal or network anew in all of OUT, after it changed."),
    ] = "",
    part: str = "0/1",
    threads: int = 1,
) -> None:
    """Let the witnesses look at held-back pictures, for calibration and the model card; resumes by itself."""
    from vlmforensics.finetune import observe as work
    from vlmforensics.finetune.pictures import assign_folds, load_manifest, share_of
    from vlmforensics.settings import load_settings

    pictures = load_manifest(data)
    donors = work.donors_of(pictures, assign_folds(pictures, FOLDS))
    if again:
        for line in work.again(again, pictures, donors, out):
            typer.echo(line)
        return
    if not variant:
        raise typer.BadParameter("needed, unless --again is given", param_hint="--variant")
    index, count = share_of(part)
    jobs = work.choose(pictures, variant, real=real, synthetic=synthetic)
    if rest:
        jobs = work.others(pictures, jobs, variant)
    jobs = jobs[index::count]
    assistant = work.witnesses(load_settings(threads=threads, sandbox=False), witnesses)
    for line in work.observe(assistant, jobs, donors, out):
        typer.echo(line)


@app.command()
def calibrate(
    data: Data,
    cache: Cache,
    work: Annotated[
        Path, typer.Option(help="Folder with observations and the scores of parts with families left out.")
    ],
    out: Annotated[Path | None, typer.Option(help="Calibration file; the shipped one by default.")] = None,
    seed: int = 0,
) -> None:
    """Fit likelihood ratios, fusion and abstention; see ``finetune/calibrate.py``."""
    from vlmforensics.compact.shipped import DATA
    from vlmforensics.finetune import calibrate as steps
    from vlmforensics.finetune.pictures import load_manifest

    rows = steps.load_rows(load_manifest(data), work, cache, steps.VARIANTS)
    calibration = steps.calibrate(
        rows, seed=seed, notes={"command": f"vlmforensics finetune calibrate --seed {seed}"}
    )
    target = out or DATA / "calibration.json"
    calibration.save(target)
    typer.echo(f"wrote {target}: {calibration.origin['examples']}, quality {calibration.quality}")


data_cli.add_to(app)

if __name__ == "__main__":
    app()
