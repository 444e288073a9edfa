"""The catalogue as a page of documentation."""

from __future__ import annotations

from vlmforensics.clues.catalogue import CATEGORIES, Catalogue, Clue

_HEAD = """# Clues
What one can look for in a picture, as yes-or-no questions: {count} clues, edition {version}. This page is made from
[`catalogue.toml`](../vlmforensics/clues/catalogue.toml) by `vlmforensics finetune clues --write docs/clues.md`.

- A **yes** speaks for the labels under *speaks for*; a clue that speaks for none is told and weighs nothing.
- **Who**: `algorithm` clues are measured by an evidence source, under the rule given; the others are observed by a
  vision-language model or a person and are as good as their observer, which `vlmforensics finetune assess` measures.
- **Pictures**: FakeClue's categories where the question makes sense.
- No clue proves anything by itself. *What to look for* names the honest explanations, too.
"""


def page(catalogue: Catalogue) -> str:
    """Markdown of the whole catalogue, by category."""
    parts = [_HEAD.format(count=len(catalogue.clue), version=catalogue.version)]
    for category in CATEGORIES:
        clues = [clue for clue in catalogue if clue.category == category]
        if clues:
            parts.append(f"\n## {category.capitalize()}\n")
            parts += [_entry(clue) for clue in clues]
    return "".join(parts)


def _entry(clue: Clue) -> str:
    who = ", ".join(clue.observers)
    if clue.measured:
        rule = f"score ≥ {clue.at_least:g}" if clue.at_least is not None else f"code {', '.join(clue.codes)}"
        who = f"algorithm (`{clue.source}`: {rule})"
    return (
        f"\n### {clue.id}\n"
        f"**{clue.question}**\n\n"
        f"{clue.look_for}\n\n"
        f"Speaks for: {', '.join(clue.favours) or 'none'} · Who: {who} · "
        f"Pictures: {', '.join(clue.applies) or 'any'} · Version {clue.version}\n"
    )
