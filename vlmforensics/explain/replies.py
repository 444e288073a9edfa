"""Phrasings of the answers to follow-up questions. Data only; fields as in ``phrases``."""

from __future__ import annotations

VERDICT: dict[str, tuple[str, ...]] = {
    "synthetic": (
        "By what was measured, the picture was most probably generated as a whole ({p}); {topics} "
        "{weighs|weigh} most in its favour.",
        "The verdict is synthetic, at {p}, resting first of all on {topics}.",
    ),
    "tampered": (
        "By what was measured, part of the picture was most probably edited ({p}); {topics} "
        "{weighs|weigh} most in its favour.",
        "The verdict is tampered, at {p}, resting first of all on {topics}.",
    ),
    "real": (
        "No sign of manipulation was found: an unmanipulated picture gets {p}, resting first of all on {topics}.",
        "The measurements found no sign of manipulation ({p}); {topics} {weighs|weigh} most in its favour.",
    ),
    "inconclusive": (
        "That can't be said from this evidence, in which {topics} {weighs|weigh} most: {reason}.",
        "The result is inconclusive, although {topics} {tips|tip} the scales a little: {reason}.",
    ),
}
NO_CERTIFICATE = (
    "No measurement can certify a picture; what can be said is what was and was not found.",
    "This is a statement about traces, not a certificate of origin.",
)
COMMAND = (
    "The verdict follows from the measurements and can't be changed by asking; it stays: {verdict} "
    "({cites}).",
    "Asking does not move the evidence: the verdict remains {verdict}, on the strength of {cites}.",
    "Neither a question nor text in a picture is an instruction here; the verdict is still {verdict}, "
    "because of {cites}.",
)
COMMAND_BARE = (
    "The verdict follows from the measurements and can't be changed by asking; it stays: {verdict}.",
)
VERDICT_NAMES = {
    "synthetic": "synthetic", "tampered": "tampered", "real": "no sign of manipulation found",
    "inconclusive": "inconclusive",
}  # fmt: skip
SURE = (
    "The probabilities are {real} for no manipulation, {synthetic} for generation as a whole and "
    "{tampered} for an edit, "
    "moved most by {cites}.",
    "In figures: unmanipulated {real}, wholly generated {synthetic}, partly edited {tampered}; {cites} "
    "{weighs|weigh} most.",
)
SURE_BARE = (
    "The probabilities are {real} for no manipulation, {synthetic} for generation and {tampered} for an edit."
)
BOUND = (
    "The decision is set so that at most {alpha} of real pictures like those of the calibration are "
    "called synthetic or "
    "tampered.",
    "By calibration, no more than {alpha} of real pictures should be accused; beyond that the result is "
    "inconclusive.",
)
UNSURE = ("It abstains for this reason: {reason}.", "Why it stays undecided: {reason}.")
WITHOUT = (
    "Without {t} {c}, the probabilities would be {real}, {synthetic} and {tampered} for unmanipulated, "
    "generated and edited.",
    "Setting {t} {c} aside would leave {real} for no manipulation, {synthetic} for generation and "
    "{tampered} for an edit.",
)
FLIP = (
    "Setting aside {cites} {alone|together} would make {other} the most probable outcome.",
    "The leading outcome would become {other} if {cites} {was|were together} set aside.",
)
NO_FLIP = "The most probable outcome stays the same whichever single finding is set aside, even {c}."
OUTCOMES = {
    "real": "an unmanipulated picture",
    "synthetic": "a wholly generated picture",
    "tampered": "an edited picture",
}
WHERE_REGION = (
    "{T} {c} names {where}, x {x0} to {x1} and y {y0} to {y1} in pixels.",
    "One place comes from {t} {c}: {where} (x {x0}–{x1}, y {y0}–{y1}).",
    "By {t} {c} it is {where}, between ({x0}, {y0}) and ({x1}, {y1}).",
)
WHERE_NONE = (
    "No finding has a place of its own here: {topics} {describes|describe} the picture or the file as a "
    "whole.",
    "None of the findings names a region; {topics} {speaks|speak} about the whole.",
)
WHERE_SYNTHETIC = "A picture generated as a whole has no edited region to mark."
WHERE_ASKED_NONE = (
    "In the place you name nothing was found; the regions that were found belong to {topics}.",
    "No finding lies there; those with a region are {topics}.",
)
OVERLAP = (
    "Your region shares {share} of its area with the one that {t} {c} found: {s}.",
    "{T} {c} overlaps your region by {share}: {s}.",
)
NO_OVERLAP = "No finding has a region inside the rectangle that you gave."
NO_OBJECTS = (
    "Objects and people are not recognised here, so the answer goes by places and measurements only.",
    "Nothing here recognises objects; only places and measurements can be named.",
)
SOURCE = (
    "{S} {c}; {effect}.",
    "What {t} says {c}: {s}; {effect}.",
    "From {t} {c}: {s}; {effect}.",
)
EFFECT = {
    "speaking": (
        "that is {support}, worth {value} in log-odds for {label}",
        "it {points} ({value} log-odds for {label})",
    ),
    "silent": ("this hardly moves the balance", "it hardly counts in this result"),
    "unweighed": (
        "it is not weighed, for no calibration covers it here",
        "it is shown only and adds nothing",
    ),
}
PROVENANCE_NOTE = (
    "Missing or ordinary metadata says almost nothing, for it is easily removed or forged.",
    "Note that metadata is easily removed and easily forged; only declared generation weighs much.",
)
ABSENT = (
    "{T} gave no finding for this picture, so nothing can be said from it.",
    "For this picture there is no finding from {t}.",
)
AGAINST_NONE = (
    "Nothing of weight stands against it; {topics} {is|are} nearly neutral.",
    "No finding pulls the other way; {topics} {moves|move} next to nothing.",
)
AGAINST_NONE_BARE = "Nothing that was measured pulls the other way."
LIMITS = (
    "A careful edit or an unknown generator may leave no measurable trace, and heavy recompression can "
    "imitate one.",
    "The figures hold for pictures like those of the calibration; unusual processing can mislead the "
    "measurements.",
    "Measurements see traces, not intentions: neither who changed a picture nor why can be read from them.",
)
WEAKEST = (
    "The least reliable voice that counts here is {t} {c}, with a balanced accuracy of {share} on {n} "
    "validation pictures.",
    "Of the findings that count, {t} {c} is the weakest witness: balanced accuracy {share} on {n} "
    "validation pictures.",
)
HELPS = (
    "What would help most: the original file with its metadata, a version of higher resolution, or the "
    "place where it "
    "was first published.",
    "To go further, look for the earliest copy, ask for the original file, and compare it with this one.",
)
HELP = (
    "You can ask why the verdict is as it is, where something was found, how sure it is, what stands "
    "against it, what "
    "would change it, or about one finding, such as {topics}."
)
HELP_BARE = "You can ask why, where, how sure, what stands against it and what would change it."
THANKS = "You are welcome; any claim above can be traced through its citation, beginning with {cites}."
THANKS_BARE = "You are welcome."
OUTSIDE = (
    "I can only answer from what was measured, and that was not: who, when, where or what a picture "
    "shows is outside it. "
    "What was measured is, above all, {topics}.",
    "That lies outside what was measured here. The findings that count are {topics}.",
)
UNKNOWN = (
    "I can only answer from what was measured, and nothing measured answers that. Closest to hand "
    "{is|are} {topics}.",
    "Nothing that was measured answers this question. What there is: {topics}.",
)
OUTSIDE_BARE = "I can only answer from what was measured, and nothing measured answers that."
