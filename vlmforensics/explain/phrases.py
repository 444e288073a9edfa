"""Every phrasing of the explanations, in one place. Data only.

Templates are ``str.format`` patterns. Fields:

- ``{S}``/``{s}``: the evidence's statement without its full stop, with and without a capital where one may change;
- ``{T}``/``{t}``: what was looked at, as a noun phrase (``the noise residual``);
- ``{c}``: the citation, ``[E3]``; ``{cites}``: several, ``[E1] and [E4]``;
- ``{toward}``: ``for a picture generated as a whole`` / ``against an unmanipulated picture``;
- ``{points}``: ``speaks for …`` / ``leans slightly away from …``; ``{point}`` the same after a plural;
- ``{support}``: ``moderate support for …`` or ``only a slight leaning …``;
- ``{p}``: a probability; ``{one|many}`` alternatives are chosen by the number of citations before formatting.

Every sentence that is built from these passes ``verify`` (a test walks all of them).
"""

from __future__ import annotations

TOPICS: dict[str, str] = {
    "vlm": "the model's own reading",
    "remark": "the model's own remark",
    "blending": "the blending detector",
    "mask": "the localisation mask",
    "metadata": "the file's metadata",
    "generation_parameters": "the search for embedded parameters",
    "editor_traces": "the search for software traces",
    "camera_exif": "the camera record",
    "c2pa": "the check for Content Credentials",
    "jpeg": "the JPEG history",
    "jpeg_tables": "the JPEG quantisation",
    "jpeg_double": "the test for double compression",
    "jpeg_ghost": "the search for JPEG ghosts",
    "jpeg_grid": "the JPEG block grid",
    "jpeg_crop": "the search for a shifted JPEG grid",
    "noise": "the noise residual",
    "spectrum": "the frequency spectrum",
    "frequency": "the frequency spectrum",
    "upsampling": "the search for resampling traces",
    "npr": "the comparison of neighbouring pixels",
    "whole": "the whole-picture expert",
    "edited": "the editing expert",
    "cooccurrence": "the co-occurrence of fine residuals",
    "ela": "the error level",
    "copy_move": "the search for copied areas",
    "jpeg_votes": "the vote for the JPEG grid",
    "residual_clusters": "the comparison of residuals between parts",
    "cfa": "the trace of demosaicing",
    "cfa_part": "the search for parts without demosaicing",
    "chromatic": "the chromatic aberration",
    "texture_contrast": "the contrast of rich and poor texture",
    "thumbnail": "the embedded preview",
    "faces": "the sharpness of faces",
}
"""Source → what was looked at, in the singular. A source that is missing here is ``the … measurement``."""

TOWARD: dict[tuple[int, str], tuple[str, ...]] = {
    (1, "synthetic"): (
        "for a picture generated as a whole",
        "for a wholly generated picture",
        "for a synthetic picture",
        "for generation by a model",
    ),
    (1, "tampered"): (
        "for a partly edited picture",
        "for an edit in part of the picture",
        "for tampering",
        "for local editing",
    ),
    (1, "real"): (
        "for an unmanipulated picture",
        "for a picture without manipulation",
        "for no manipulation",
    ),
    (-1, "synthetic"): (
        "against a wholly generated picture",
        "against generation as a whole",
        "against a synthetic picture",
    ),
    (-1, "tampered"): ("against a partly edited picture", "against tampering", "against local editing"),
    (-1, "real"): ("against an unmanipulated picture", "against a picture without manipulation"),
}

POINTS: dict[int, tuple[tuple[str, str], ...]] = {
    1: (("speaks", "speak"), ("counts", "count"), ("argues", "argue")),
    -1: (("speaks", "speak"), ("counts", "count"), ("argues", "argue"), ("weighs", "weigh")),
}
"""Verbs that take ``for …``/``against …``: singular, plural."""
LEANS: tuple[tuple[str, str], ...] = (("leans slightly", "lean slightly"), ("tips slightly", "tip slightly"))
"""Verbs that take ``towards …``/``away from …``, of a finding without support to speak of."""

SUMMARY: dict[str, tuple[str, ...]] = {
    "synthetic": (
        "This picture was most probably generated as a whole ({p}), above all because of {topics}.",
        "Verdict: synthetic, with a probability of {p}; {topics} {weighs|weigh} most in its favour.",
        "Taken together, the measurements put {p} on a wholly generated picture, for which {topics} "
        "{speaks|speak} most.",
        "The evidence adds up to a synthetic picture ({p}), and what speaks most for it is {topics}.",
        "At {p}, the most probable account is that the whole picture was generated; the heaviest "
        "{finding|findings} in favour {is|are} {topics}.",
        "The balance falls on a picture made by a generator, {p}, mainly through {topics}.",
        "A wholly generated picture is the best fit ({p}), resting chiefly on {topics}.",
        "What was measured fits a synthetic picture best, at {p}, with {topics} foremost in its favour.",
    ),
    "tampered": (
        "This picture was most probably edited in part ({p}), above all because of {topics}.",
        "Verdict: tampered, with a probability of {p}; {topics} {weighs|weigh} most in its favour.",
        "Taken together, the measurements put {p} on a partly edited picture, for which {topics} {speaks|speak} most.",
        "The evidence adds up to a tampered picture ({p}), and what speaks most for it is {topics}.",
        "At {p}, the most probable account is that part of the picture was edited; the heaviest "
        "{finding|findings} in favour {is|are} {topics}.",
        "The balance falls on a picture with an edited part, {p}, mainly through {topics}.",
        "A partly edited picture is the best fit ({p}), resting chiefly on {topics}.",
        "What was measured fits local tampering best, at {p}, with {topics} foremost in its favour.",
    ),
    "real": (
        "No sign of manipulation was found ({p} for an unmanipulated picture), above all because of "
        "{topics}.",
        "Verdict: no sign of manipulation found, at {p}; {topics} {weighs|weigh} most in its favour.",
        "Taken together, the measurements show no sign of manipulation and put {p} on an unmanipulated "
        "picture, for which {topics} {speaks|speak} most.",
        "The evidence leaves no sign of manipulation ({p}), and what speaks most for that is {topics}.",
        "An unmanipulated picture fits the measurements, at {p}, mainly through {topics}; no sign of "
        "manipulation was found.",
        "No sign of manipulation found: the balance stands at {p}, resting chiefly on {topics}.",
        "The measurements found no sign of manipulation, at {p}, with {topics} foremost in its favour.",
    ),
    "inconclusive": (
        "The result is inconclusive, with {topics} the heaviest on the scales: {reason}.",
        "No verdict is given; {topics} {weighs|weigh} most, yet {it does|they do} not suffice: {reason}.",
        "Inconclusive, although {topics} {tips|tip} the scales a little: {reason}.",
        "The evidence, led by {topics}, does not settle the question: {reason}.",
        "This picture stays undecided, with {topics} weighing most: {reason}.",
        "There is no clear outcome here, and {topics} {makes|make} the largest difference: {reason}.",
    ),
}

SUMMARY_BARE: dict[str, tuple[str, ...]] = {
    "synthetic": ("Verdict: synthetic, with a probability of {p}.",),
    "tampered": ("Verdict: tampered, with a probability of {p}.",),
    "real": ("Verdict: no sign of manipulation found, with a probability of {p}.",),
    "inconclusive": (
        "The result is inconclusive: {reason}.",
        "No verdict is given: {reason}.",
        "This picture stays undecided: {reason}.",
    ),
}
"""Where no evidence contributes anything."""

# ---- one evidence. LEAD patterns begin with the statement, TAIL patterns end with it. ----

EMBED: tuple[str, ...] = (
    "{S} ({c}, {support}).",
    "{S} ({c}); this {points}.",
    "{S} ({c}): {support}.",
)
"""For a statement that names its topic itself: nothing need be said before it. Any role."""
CON_EMBED: tuple[str, ...] = (
    "On the other hand, {s} ({c}, {support}).",
    "Then again, {s} ({c}); this {points}.",
    "Yet {s} ({c}, {support}).",
    "However, {s} ({c}); this {points}.",
)
"""The same for the first finding against the result."""

PRO_TOP_LEAD: tuple[str, ...] = (
    "{S} {c}; of all findings this one weighs most, and it {points}.",
    "{S} {c}: {support}, and the largest single contribution.",
    "The heaviest finding first: {s} {c}, {support}.",
    "Above all, {s} {c}, which is {support}.",
)
PRO_TOP_TAIL: tuple[str, ...] = (
    "The heaviest finding is that of {t} {c}, {support}: {s}.",
    "More weight comes from {t} {c} than from any other finding: {s}.",
    "The main weight lies with {t} {c}, which {points}: {s}.",
    "Foremost stands {t} {c} with {support}: {s}.",
    "What counts most is {t} {c}: {s}.",
    "{T} {c} gives {support}, more than anything else here: {s}.",
)
"""For the heaviest of all findings."""
PRO_FIRST_LEAD: tuple[str, ...] = (
    "{S} {c}, which is {support}.",
    "First of all, {s} {c}; this {points}.",
    "To begin with, {s} {c}, and that {points}.",
    "On one side, {s} {c}: {support}.",
)
PRO_FIRST_TAIL: tuple[str, ...] = (
    "To begin with, {t} {c} {points}: {s}.",
    "First comes {t} {c}, which {points}: {s}.",
    "On one side stands {t} {c} with {support}: {s}.",
    "{T} {c} gives {support}: {s}.",
)
"""For the heaviest finding in favour where another one, against, weighs more."""
PRO_NEXT_LEAD: tuple[str, ...] = (
    "{S} {c}, which is {support}.",
    "In addition, {s} {c}; this {points}.",
    "On the same side, {s} {c}, and that {points}.",
    "Besides, {s} {c}, {support}.",
    "Moreover, {s} {c}; taken alone this is {support}.",
    "{S} {c}; it adds {support}.",
)
PRO_NEXT_TAIL: tuple[str, ...] = (
    "{T} {c} adds {support}: {s}.",
    "On the same side stands {t} {c}, which {points}: {s}.",
    "{T} agrees {c}: {s}.",
    "Further, {t} {points} {c}: {s}.",
    "Next comes {t} {c} with {support}: {s}.",
    "Then {t} {c} {points}: {s}.",
    "Some weight also comes from {t} {c}: {s}.",
)
CON_FIRST_LEAD: tuple[str, ...] = (
    "On the other side, {s} {c}, which is {support}.",
    "{S} {c}, however, and this {points}.",
    "Against this stands that {s} {c}: {support}.",
    "Yet {s} {c}; this {points}.",
)
CON_FIRST_TAIL: tuple[str, ...] = (
    "On the other side stands {t} {c}, which {points}: {s}.",
    "{T} {c} pulls the other way with {support}: {s}.",
    "A doubt comes from {t} {c}, which {points}: {s}.",
    "A counterweight comes from {t} {c}, {support}: {s}.",
    "The first objection is {t} {c}, which {points}: {s}.",
    "{T} {c}, however, {points}: {s}.",
)
CON_NEXT_LEAD: tuple[str, ...] = (
    "{S} {c}, and that {points}.",
    "On that side too, {s} {c}, {support}.",
)
CON_NEXT_TAIL: tuple[str, ...] = (
    "On that side too, {t} {c} {points}: {s}.",
    "The other side also has {t} {c}: {s}.",
    "A second objection comes from {t} {c} with {support}: {s}.",
)

# ---- two evidences in one sentence ----
PAIR_SAME: tuple[str, ...] = (
    "{Ta} {ca} and {tb} {cb} both {point}: {sa}, and {sb}.",
    "Both {ta} {ca} and {tb} {cb} {point}; {sa}, and {sb}.",
    "Two findings go together: {sa} {ca}, and {sb} {cb}; both {point}.",
)
PAIR_CONTRAST: tuple[str, ...] = (
    "While {ta} {ca} {points_a}, {tb} {cb} {points_b}.",
    "{Ta} {ca} {points_a}, but {tb} {cb} {points_b}.",
    "Although {tb} {cb} {points_b}, {ta} {ca} {points_a}.",
    "{Ta} {ca} {points_a}, whereas {tb} {cb} {points_b}.",
)

# ---- several lesser findings that point the same way, without their statements ----
MINOR: tuple[str, ...] = (
    "To a smaller degree, {topics} also {speaks|speak} {toward}.",
    "{A smaller weight|Smaller weights} {toward} {comes|come} from {topics}.",
    "{topics} {counts|count} {toward} as well, with {a smaller weight|smaller weights}.",
    "There {is|are} also {topics}, which {argues|argue} {toward} with {a smaller weight|smaller weights}.",
)

MINOR_LEANS: tuple[str, ...] = (
    "{topics} {leans|lean} slightly {leaning}.",
    "A slight leaning {leaning} also comes from {topics}.",
)
"""Of those without support to speak of."""

# ---- the rest ----
NEUTRAL: tuple[str, ...] = (
    "{topics} hardly {moves|move} the balance.",
    "Next to nothing follows from {topics}.",
    "{topics} {leaves|leave} the balance almost where it was.",
    "Little in this result comes from {topics}.",
)
UNWEIGHED: tuple[str, ...] = (
    "{topics} {was|were} measured but {is|are} not weighed, for no calibration covers {it|them} here.",
    "No calibration covers {topics} here, so {it adds|they add} nothing to the balance.",
    "{topics} {is|are} shown for information only and {adds|add} nothing.",
)
COUNTERFACTUAL: dict[str, tuple[str, ...]] = {
    "down": (
        "Without {c} the probability would fall from {p} to {q}.",
        "Leaving out {c}, the remaining findings would give {q} instead of {p}.",
        "{T} {c} matters: the other findings alone give {q} instead of {p}.",
        "Were {c} set aside, the figure would drop from {p} to {q}.",
    ),
    "same": (
        "The outcome does not hang on {c} alone: without it the probability would still be {q}.",
        "Even without {c}, the remaining findings would give {q}.",
        "Setting {c} aside would leave {q}, so the result does not rest on it alone.",
    ),
}
INNOCENT: tuple[str, ...] = ("If {c} had an innocent cause, {q} would remain of the {p}.",)
"""One more of those that go down, where something is suspected at all."""
ODDS: tuple[str, ...] = (
    "The probabilities stand at {real} for no manipulation, {synthetic} for generation as a whole and "
    "{tampered} "
    "for an edit, moved most by {cites}.",
    "With {cites} weighing most, {real} falls to an unmanipulated picture, {synthetic} to a wholly "
    "generated one and "
    "{tampered} to a partly edited one.",
    "In figures: unmanipulated {real}, wholly generated {synthetic}, partly edited {tampered}, chiefly "
    "due to {cites}.",
)
"""Of an inconclusive result, which has no single probability to state."""
LIMITS: dict[str, tuple[str, ...]] = {
    "accused": (
        "Heavy recompression, enlargement or a strong filter can produce similar traces, so the file's "
        "history "
        "should be checked before anything is concluded.",
        "These are statistical traces: an innocent chain of saving, scaling and filtering can imitate them.",
        "A person should look at the file's source before acting on this; traces like these also arise from "
        "messaging apps and photo filters.",
        "The figures hold for pictures like those used in calibration; an unusual chain of processing can "
        "mislead them.",
    ),
    "real": (
        "This only says what was not found: a careful edit, or a generator that calibration never saw, "
        "may leave "
        "no measurable trace.",
        "Absence of traces is not proof of origin; an original file or a statement of its source would "
        "add more.",
        "Manipulation that leaves no trace in these measurements remains possible.",
        "It can't be concluded that nothing was changed, only that nothing was detected by these "
        "measurements.",
    ),
    "inconclusive": (
        "An original file, straight from the camera or the website, would help most.",
        "A larger or less compressed version of the same picture could settle it.",
        "Better would be the file as first published, with its metadata and full resolution.",
        "Another copy of the picture, less compressed and uncropped, would give the measurements more "
        "to work on.",
    ),
}
RELIABILITY: tuple[str, ...] = (
    "On {n} validation pictures, {t} {c} had a balanced accuracy of {share}.",
    "For scale: {t} {c} has a balanced accuracy of {share} (n = {n}).",
    "How far to trust {t} {c}: its balanced accuracy on {n} validation pictures was {share}.",
    "{T} {c} reached a balanced accuracy of {share} on {n} validation pictures.",
)
PLACE: tuple[str, ...] = (
    "{T} {c} places this {at}.",
    "The place named by {t} {c} is {where}.",
    "As for the place, {t} {c} names {where}.",
)
BROKEN: tuple[str, ...] = (
    "Not everything could be measured: {names} failed on this picture.",
    "One caution: {names} could not be evaluated here.",
)

GENERAL_WORDS = (
    "accuracy balanced pictures right time validation "
    "a about above according account across add added adds after again all almost alone also although "
    "among an and "
    "another any are as at away balance based be because been before being best between both but by can "
    "clear "
    "clearly come comes consistent contribution could different direction does each either evidence "
    "even far few "
    "finding findings first fit fits followed for found from further furthermore give given gives has "
    "have heaviest "
    "here how however if image in indicate indicates into is it its itself just largest lead leads "
    "leaning less "
    "likely lies made main mainly makes may measure measured measurement measurements might more most "
    "mostly much "
    "must near of on one only or other others our over overall part picture place point pointing points "
    "probability "
    "probable probably reason reasons region rest result same second shows side sign signs similar "
    "since slight small so "
    "some source stands still such suggest suggests sum support supported supporting supports taken "
    "than that the "
    "their them then there these they this those though thus to together too towards trace traces two "
    "under upon "
    "very was way weigh weighs weight well were what when where which while whole with within would yet"
)
"""Words that any sentence may use besides those of the cited statements and of the templates above."""
