"""The only judge: evidence in, verdict out; arithmetic on stored numbers.

    log-odds(label) = prior(label) + Σ contribution(label),
    contribution(label) = weight of the source for this label × llr(label)
    probabilities   = softmax(log-odds)

A source that did not speak, is unknown to the calibration or has an unknown code contributes zero. The sum
is exact, so taking an evidence away moves the log-odds by exactly its contribution.

The verdict is the only label that conformal prediction does not exclude (``conformal``). Real is excluded
at level alpha, so at most alpha of real pictures can be accused of either kind; what follows only chooses
between *synthetic*, *tampered* and *inconclusive* and can only lower that share:

- real excluded, one other label left: that label;
- real excluded, both others left: the more probable if its lead reaches the stored margin, else inconclusive;
- a gate: see ``gates``;
- a broken source: a verdict *real* becomes inconclusive where that source counts at all, and an accusation
must hold
  even if the broken source had spoken for real as strongly as it ever did in calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmforensics.errors import Defect, SettingsError
from vlmforensics.fusion.calibration import Calibration
from vlmforensics.fusion.conformal import nonconformity
from vlmforensics.fusion.gates import Gate
from vlmforensics.fusion.scale import Floats, as_map, log_softmax
from vlmforensics.strength import NO_SUPPORT, NOT_CALIBRATED, OUT_OF_DOMAIN, strength_of
from vlmforensics.types import LABELS, Evidence, Label, SourceFailure, Verdict, VerdictLabel

WORDS = {"real": "no manipulation", "synthetic": "wholly generated", "tampered": "partly edited"}
MASK_NOTICEABLE = 0.002
"""Share of the picture above which a mask counts as a region."""


@dataclass(frozen=True)
class Decision:
    """A label and, where it is *inconclusive*, the reason."""

    label: VerdictLabel
    reason: str | None = None


def judge(
    evidence: Sequence[Evidence],
    calibration: Calibration,
    *,
    alpha: float = 0.01,
    failures: Sequence[SourceFailure] = (),
    gates: Sequence[Gate] = (),
    mask_area: float | None = None,
) -> tuple[tuple[Evidence, ...], Verdict]:
    """Weigh all evidence and decide.

    Args:
        evidence: findings in any order, at most one a source; ids, llr, strength and contribution are
            overwritten.
        calibration: the frozen numbers.
        alpha: bound on the share of real pictures that are called synthetic or tampered, in (0, 0.5).
        failures: sources that broke on this picture.
        gates: reasons not to decide.
        mask_area: share of the picture inside the localisation mask, 0..1, or None where no mask head ran.

    Returns:
        The evidence with ids E1, E2 … in order of falling weight (largest absolute contribution, then the
        source's name), and the verdict. Both depend on the set of evidence only, not on its order.

    Raises:
        SettingsError: alpha out of range, or evidence of another version than the calibration.
        Defect: two findings of one source, or a mask area outside 0..1.
    """
    if not 0 < alpha < 0.5:
        raise SettingsError(f"alpha must lie between 0 and 0.5, not {alpha}")
    if mask_area is not None and not 0 <= mask_area <= 1:
        raise Defect(f"mask area {mask_area} is not a share")
    names = sorted(item.source for item in evidence)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Defect(f"more than one finding of {', '.join(twice)}")
    silenced = any(gate.pixels for gate in gates)
    weighed = [_weigh(item, calibration, silenced) for item in sorted(evidence, key=lambda item: item.source)]
    log_odds = calibration.prior.copy()
    for _, contribution in weighed:
        log_odds = log_odds + contribution
    probabilities = np.exp(log_softmax(log_odds))
    ranked = sorted(weighed, key=lambda pair: (-float(np.abs(pair[1]).max()), pair[0].source))
    numbered = tuple(replace(item, id=f"E{place}") for place, (item, _) in enumerate(ranked, start=1))
    decision = _decide(log_odds, calibration, alpha, failures, gates)
    leading = LABELS[int(np.argmax(log_odds))]
    verdict = Verdict(
        label=decision.label,
        probabilities=as_map(probabilities / probabilities.sum()),
        prior=as_map(calibration.prior),
        abstention=decision.reason,
        alpha=alpha,
        leading=leading,
        mask_agreement=mask_agreement(decision.label, mask_area, placed=any(map(_places, numbered))),
        ruled_out_below=as_map(ruled_out_below(log_odds, calibration, alpha)),
    )
    return numbered, verdict


def _weigh(item: Evidence, calibration: Calibration, silenced: bool) -> tuple[Evidence, Floats]:
    """One evidence with llr, strength, reliability and contribution; the latter also as an array (3,)."""
    zero = np.zeros(3)
    source = calibration.sources.get(item.source)
    if source is None:
        llr, strength, weight, reliability = zero, NOT_CALIBRATED, zero, None
    else:
        weight, reliability = source.weight, source.reliability
        found = source.calibrator.llr(item, source.cap)
        if silenced and not source.provenance:
            llr, strength = zero, OUT_OF_DOMAIN
        elif found is None:
            # A fact without a number says nothing; a code without a row has not been calibrated.
            llr, strength = zero, NOT_CALIBRATED if item.code and item.score is None else NO_SUPPORT
        else:
            llr, strength = found, strength_of(found, weight * found)
    contribution = weight * llr
    filled = replace(
        item, llr=as_map(llr), strength=strength, reliability=reliability, contribution=as_map(contribution)
    )
    return filled, contribution


def _decide(
    log_odds: Floats,
    calibration: Calibration,
    alpha: float,
    failures: Sequence[SourceFailure],
    gates: Sequence[Gate],
) -> Decision:
    """Conformal decision, then what gates and failures take away from it."""
    decision = conformal_decision(log_odds, calibration, alpha)
    accused = decision.label in ("synthetic", "tampered")
    hard = [gate for gate in gates if not gate.pixels]
    if hard or (gates and not accused):
        return Decision("inconclusive", (hard or list(gates))[0].reason)
    broken = sorted({item.source for item in failures if _counts(item.source, calibration)})
    if broken and decision.label == "real":
        return Decision(
            "inconclusive",
            f"{_listed(broken)} could not be evaluated on this picture, so the absence of signs can't be "
            "stated.",
        )
    if broken and accused:
        sources = [calibration.sources[name] for name in broken]
        favour = np.sum([source.weight * source.reach for source in sources], axis=0)
        if conformal_decision(log_odds + favour, calibration, alpha).label != decision.label:
            return Decision(
                "inconclusive",
                f"{_listed(broken)} could not be evaluated on this picture and might have outweighed the "
                "rest.",
            )
    return decision


def _counts(source: str, calibration: Calibration) -> bool:
    return source in calibration.sources and bool((calibration.sources[source].weight > 0).any())


def conformal_decision(log_odds: Floats, calibration: Calibration, alpha: float) -> Decision:
    """The label left by conformal prediction, or why there is none; before gates and failures.

    Args:
        log_odds: (3,), up to a constant.
        calibration: the frozen numbers.
        alpha: bound on accused real pictures.
    """
    scores = nonconformity(log_softmax(log_odds))
    levels = {"real": alpha, **calibration.levels}
    p_values = {
        label: calibration.conformal[label].p_value(float(score))
        for label, score in zip(LABELS, scores, strict=True)
    }
    kept = [label for label in LABELS if p_values[label] > levels[label] + 1e-12]
    if kept == ["real"]:
        return Decision("real")
    if "real" in kept:
        return Decision("inconclusive", _undecided(log_odds, p_values, kept, calibration, alpha))
    if len(kept) == 1:
        return Decision(kept[0])
    if len(kept) == 2:
        if abs(float(log_odds[1] - log_odds[2])) >= calibration.margin:
            return Decision("synthetic" if log_odds[1] > log_odds[2] else "tampered")
        return Decision(
            "inconclusive",
            "The picture shows signs of manipulation, but the evidence can't tell whether it was "
            "generated as a whole "
            "or edited in part.",
        )
    return Decision(
        "inconclusive",
        "The findings contradict one another: the combination fits neither real, nor generated, nor "
        "edited pictures "
        "of the calibration.",
    )


def ruled_out_below(log_odds: Floats, calibration: Calibration, alpha: float) -> Floats:
    """Probability of each label at or below which conformal prediction excludes it, the others keeping their ratio.

    With share ``w`` of the stronger of the others among both, a label of probability x has the nonconformity
    ``log((1 − x) w / x)``; setting it to the largest score that is kept and solving for x gives the bound.

    Args:
        log_odds: (3,), up to a constant.
        calibration: the frozen numbers.
        alpha: bound on accused real pictures.

    Returns:
        (3,) in [0, 1).
    """
    levels = {"real": alpha, **calibration.levels}
    probabilities = np.exp(log_softmax(log_odds))
    bounds = np.zeros(3)
    for place, label in enumerate(LABELS):
        others = np.delete(probabilities, place)
        odds = others.max() / others.sum() * np.exp(-calibration.conformal[label].largest_kept(levels[label]))
        bounds[place] = odds / (1 + odds)
    return bounds


def _undecided(
    log_odds: Floats,
    p_values: Mapping[Label, float],
    kept: Sequence[Label],
    calibration: Calibration,
    alpha: float,
) -> str:
    """Why real could be neither stated nor excluded."""
    leading = LABELS[int(np.argmax(log_odds))]
    if leading != "real":
        guarantee = calibration.guarantee(alpha)
        if not guarantee.possible:
            return guarantee.sentence
        return (
            f"The evidence leans to {WORDS[leading]}, but {_share(p_values['real'], alpha)} of real calibration "
            "pictures look "
            f"at least as suspicious, and at most {100 * alpha:.3g} % may be accused."
        )
    other = max((label for label in kept if label != "real"), key=lambda label: p_values[label])
    return (
        f"No clear sign of manipulation was found, but {_share(p_values[other])} of the {WORDS[other]} "
        "calibration "
        "pictures look at least as inconspicuous, so it can't be ruled out."
    )


def _share(p_value: float, above: float = 0.0) -> str:
    """A share with one decimal below 10 %, or as many as show that it lies above another one."""
    places = 1 if p_value < 0.1 else 0
    while places < 6 and float(f"{100 * p_value:.{places}f}") <= float(f"{100 * above:.3g}"):
        places += 1
    return f"{100 * p_value:.{places}f} %"


def _listed(names: Sequence[str]) -> str:
    """``The source a`` or ``The sources a and b``."""
    words = ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
    return f"The source{'s' if len(names) > 1 else ''} {words}"


def _places(item: Evidence) -> bool:
    """Whether a finding other than the mask speaks for *tampered* and has a region."""
    return item.source != "mask" and item.region is not None and item.contribution["tampered"] > 0


def mask_agreement(label: VerdictLabel, area: float | None, *, placed: bool = False) -> str | None:
    """How verdict and mask agree, one sentence, or None where no mask head ran.

    Args:
        label: the verdict.
        area: share of the picture inside the mask, 0..1, or None.
        placed: a finding that speaks for *tampered* names a place of its own.
    """
    if area is None:
        return None
    share = "less than 1 %" if area < 0.01 else f"{100 * area:.0f} %"
    if area < MASK_NOTICEABLE:
        if placed and label == "tampered":
            return "The mask marks no region; the place that a finding names is the only hint where."
        return {
            "tampered": "The verdict is tampered, but no region could be marked, so its place is unknown.",
            "synthetic": "No region is marked, as expected of a picture that was generated as a whole.",
            "real": "No region is marked, in agreement with the verdict.",
            "inconclusive": "No region is marked.",
        }[label]
    return {
        "tampered": f"The marked region covers {share} of the picture, in agreement with the verdict.",
        "synthetic": f"The mask marks {share} of the picture, although the verdict concerns the whole.",
        "real": f"The mask marks {share} of the picture, although no sign of manipulation was found overall; "
        "look at that region.",
        "inconclusive": f"The mask marks {share} of the picture; taken alone it decides nothing.",
    }[label]
