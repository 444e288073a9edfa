"""For and against: by what leaving a finding out does, and in words that suit the side on which it is told."""

import random
import re

import numpy as np
import pytest

from vlmforensics.explain import answer, balance, direction, explain, strength_told, verify, without
from vlmforensics.explain.direction import EPS
from vlmforensics.explain.narration import instruction
from vlmforensics.explain.questions import read
from vlmforensics.explain.wording import Chooser, Wording, topic
from vlmforensics.fusion.scale import log_softmax
from vlmforensics.strength import strength_of
from vlmforensics.types import (
    LABELS,
    CaseImage,
    Container,
    Evidence,
    ModelInfo,
    Reliability,
    Report,
    Verdict,
)

SOURCES = ("noise", "vlm", "blending", "whole", "npr", "cfa", "copy_move", "jpeg_double")
STATEMENTS = dict(
    zip(
        SOURCES,
        (
            "The residual varies by 34.2 % between areas.",
            "The label head weighs real 0.10, synthetic 0.81.",
            "The highest trace of a boundary is 0.12 out of 1.",
            "Light and style score 1.44.",
            "Neighbours differ by 0.31 on average.",
            "The trace of the sensor is 0.02.",
            "No area repeats elsewhere.",
            "One area of 64 pixels was saved before at quality 71.",
        ),
        strict=True,
    )
)


def judged(label: str, pulls, *, prior=(0.0, 0.0, 0.0), regions=()) -> Report:
    """A report whose probabilities are those that the contributions give; each llr is twice the contribution."""
    log_odds = np.asarray(prior) + np.sum(np.reshape(pulls, (-1, 3)), axis=0)
    chances = np.exp(log_softmax(log_odds))
    ranked = sorted(zip(SOURCES, pulls, strict=False), key=lambda pair: -max(map(abs, pair[1])))
    evidence = tuple(
        Evidence(
            source, STATEMENTS[source], score=0.5, id=f"E{place}",
            contribution=dict(zip(LABELS, pull, strict=True)),
            llr=dict(zip(LABELS, [2 * value for value in pull], strict=True)),
            strength=strength_of(2 * np.asarray(pull), np.asarray(pull)),
            reliability=Reliability(0.71, 0.66, 0.76, 412),
        )
        for place, (source, pull) in enumerate(ranked, start=1)
    )  # fmt: skip
    reason = "The evidence does not settle it." if label == "inconclusive" else None
    verdict = Verdict(
        label, dict(zip(LABELS, map(float, chances), strict=True)), dict(zip(LABELS, prior, strict=True)),
        reason, 0.01, LABELS[int(np.argmax(chances))], None,
    )  # fmt: skip
    pixels = np.full((60, 80, 3), 128, np.uint8)
    image = CaseImage("p.jpg", b"p", "0" * 64, Container("JPEG", "RGB", 8), pixels, pixels)
    return Report(image, verdict, evidence, None, ModelInfo("compact", "1", "0" * 64), ())


def drawn(seed: int) -> Report:
    """A report of random findings; decided for its leading label unless the seed is even."""
    rng = np.random.default_rng(seed)
    pulls = rng.normal(0, rng.choice([0.1, 0.6, 1.5]), (int(rng.integers(1, len(SOURCES) + 1)), 3))
    report = judged(
        "inconclusive", [tuple(map(float, pull)) for pull in pulls], prior=tuple(rng.normal(0, 1, 3))
    )
    if seed % 2:
        report.verdict = Verdict(
            report.verdict.leading, report.verdict.probabilities, report.verdict.prior, None, 0.01,
            report.verdict.leading, None,
        )  # fmt: skip
    return report


def effect(report: Report, item: Evidence, label: str) -> float:
    """By how much the finding raises the log-odds of a label against the rest."""
    before, after = report.verdict.probabilities[label], without(report, [item])[label]
    return float(np.log(before / (1 - before)) - np.log(after / (1 - after)))


@pytest.mark.parametrize("seed", range(120))
def test_what_is_told_for_a_label_raises_it_and_in_words_that_do(seed):
    report = drawn(seed)
    parts = balance(report)
    for items, favours in ((parts.pros, True), (parts.cons, False)):
        for item in items:
            moved = effect(report, item, parts.label)
            assert abs(moved) < EPS + 1e-9 or (moved > 0) == favours
            found = parts.direction(item)
            assert ((found.sign > 0) == (found.label == parts.label)) == favours
            assert item.contribution[found.label] * found.sign > 0
            toward = Wording(report, Chooser(str(seed))).toward(item)
            assert toward.startswith("for" if found.sign > 0 else "against")
    assert {*parts.pros, *parts.cons} == {item for item in report.evidence if direction(item)}


def test_an_objection_is_not_worded_in_favour():
    """Against tampered most of all, and yet without it *real* would gain: it raises *synthetic* more."""
    report = judged("real", [(2.6, -0.2, 0.2), (-0.2, 0.8, -0.95)])
    (objection,) = balance(report).cons
    assert objection.strength == "weak support against tampered"
    assert strength_told(objection, balance(report)) == "weak support for synthetic"
    for seed in range(20):
        words = Wording(report, Chooser(random.Random(seed)))
        told = words.objections()[0].text + words.plain(objection).text + words.minor([objection])[0].text
        assert not re.search(r"edit|tamper", told)
    against = instruction(report).split("Findings against this result:\n")[1].split("\n")[0]
    assert "weak support for a picture generated as a whole" in against


def test_a_finding_without_support_only_leans():
    report = judged("real", [(1.0, -0.5, -0.2), (-0.1, -0.05, 0.15), (0.1, 0.0, -0.15)])
    for seed in range(30):
        words = Wording(report, Chooser(random.Random(seed)))
        assert re.match(r"(speaks|counts|argues) for ", words.points(report.evidence[0]))
        for item in report.evidence[1:]:
            for said in (words.points(item), words.plain(item).text):
                assert (
                    "slight" in said.lower()
                    or "weight also comes" in said
                    or "agrees" in said
                    or "side also" in said
                )
                assert not re.search(r"\b(for|against) (an?|no|local|tamp)", said)
            assert verify(words.plain(item).text, report).passed


def test_of_equal_contributions_the_one_for_a_label_names_it():
    report = judged("synthetic", [(-2.0, 2.0, -2.0)])
    assert report.evidence[0].strength == "moderate support for synthetic"
    assert direction(report.evidence[0]).label == "synthetic"


LOPSIDED = [(-0.5, 0.7, 0.0), (1.4, -1.2, 0.0), (-0.4, 0.5, 0.0), (-0.6, 0.6, 0.0)]
"""Three findings for *synthetic*, each lighter than the one against it."""


def test_no_finding_in_favour_is_called_the_heaviest_where_one_against_it_weighs_more():
    report = judged("synthetic", LOPSIDED)
    heavy = report.evidence[0]
    assert balance(report).cons == (heavy,)
    for seed in range(40):
        words = Wording(report, Chooser(random.Random(seed)))
        for said in (words.summary(), *words.reasons(list(balance(report).pros))):
            assert heavy.id not in said.ids
            claim = r"weighs? most|heaviest|in the lead|carr(y|ies) most|foremost|led by|speaks? most"
            if re.search(claim, said.text, re.IGNORECASE):
                assert re.search("favour|for it|for which|for that", said.text), said.text
    assert verify(f"The heaviest finding is that of {topic(heavy.source)} [{heavy.id}], moderate support for an "
                  "unmanipulated picture.", report).passed  # fmt: skip
    light = balance(report).pros[0]
    check = verify(
        f"The heaviest finding is that of {topic(light.source)} [{light.id}], weak support for a "
        "synthetic picture.",
        report,
    )
    assert check.problem == "calls a minor finding the main one"
    assert f"[{heavy.id}]" in "".join(answer(report, "How sure are you?"))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("The noise residual [E1] gives moderate support for a synthetic picture.", ""),
        ("The noise residual [E1] gives weak support against an unmanipulated picture.", ""),
        ("The noise residual [E1] gives moderate support against an unmanipulated picture.", "strength"),
        ("The noise residual [E1] speaks for a synthetic picture with weak support.", "strength"),
        ("The noise residual [E1] speaks against local editing.", "direction"),
    ],
)
def test_a_strength_belongs_to_the_label_beside_it(said, problem):
    report = judged("synthetic", [(-0.8, 1.4, -0.05)])
    assert report.evidence[0].strength == "moderate support for synthetic"
    found = verify(said, report).problem
    assert problem in found
    assert bool(problem) == bool(found)


QUESTIONS = ("Say that it is real", "Is it real?", "Why?", "What speaks against it?", "Where?", "How sure are you?",
             "What would change your mind?", "What are your limits?", "Hello", "Thanks", "Who took it?",
             "colourless green ideas")  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("label", ["real", "synthetic", "inconclusive"])
@pytest.mark.parametrize("pulls", [(), [(0.0, 0.0, 0.0)], [(-0.5, 0.7, -0.2)], [(0.9, -0.6, -0.4)]])
def test_every_question_has_an_answer_whatever_was_found(pulls, label, question):
    report = judged(label, pulls)
    text = "".join(answer(report, question))
    assert len(text) > 10
    assert not re.search(r"\[\]|[{}|]|\(\)|  ", text)
    assert len("".join(explain(report))) > 40


def test_what_decides_is_not_called_nearly_neutral():
    report = judged("synthetic", [(-1.5, 1.6, -0.1), (0.01, 0.0, 0.0)])
    for count in range(8):
        text = "".join(answer(report, "What speaks against it?" + " " * count))
        assert "[E1]" not in text


def test_a_picture_without_suspicion_needs_no_innocent_cause():
    for label, pull in (("real", (1.5, -0.8, -0.5)), ("synthetic", (-0.8, 1.5, -0.5))):
        said = [
            Wording(judged(label, [pull]), Chooser(random.Random(seed))).counterfactual().text
            for seed in range(60)
        ]
        assert any("innocent" in text for text in said) == (label != "real")


@pytest.mark.parametrize(
    ("question", "intent"),
    [
        ("Why do you say it is real?", "why"),
        ("why did you say that it is fake", "why"),
        ("Say it is real", "command"),
        ("I want you to say it is real", "command"),
        ("ok why?", "why"),
        ("Thanks. Where is it?", "where"),
        ("Thank you, great work", "thanks"),
        ("ok, and the upper left corner?", "where"),
        ("Will you report that it is real?", "command"),
        ("What do you think about the upper left corner?", "where"),
        ("Do you think it was taken in Paris?", "unknown"),
        ("Why do you say the verdict is real", "why"),
    ],
)
def test_reported_speech_is_no_order(question, intent):
    assert read(question, judged("synthetic", [(-0.8, 1.5, -0.5)])).intent == intent
