"""Generation parameters and declarations of AI origin that generators write into files.

Read from PNG text chunks, EXIF, XMP, IPTC and comments by our own bounded parsers. What is found is a claim of the
file, easily stripped and seldom forged: present, it is strong evidence for the label that it names; absent, it says
nothing.

Formats: AUTOMATIC1111 ``parameters`` (also Forge, SD.Next, stable-diffusion.cpp), ComfyUI ``prompt`` and
``workflow``, InvokeAI, NovelAI, Fooocus, SwarmUI, Easy Diffusion, Draw Things, mflux, Midjourney, OpenAI, Google,
Meta, Adobe Firefly and others' marks; IPTC ``DigitalSourceType`` (IPTC NewsCodes); China's AIGC label (GB 45438-2025).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from vlmforensics.signals.wording import SCAN, bounded_json, count, quote, xmp_values
from vlmforensics.types import CaseImage, Container, Evidence

CODES = (
    "sd-parameters",
    "sd-inpainting",
    "comfyui",
    "invokeai",
    "novelai",
    "midjourney",
    "generator-mark",
    "ai-service-mark",
    "iptc-trained-algorithmic",
    "iptc-composite-trained",
    "none",
)
"""Outcomes, for a calibration table. ``*-inpainting`` and ``*-composite-*`` speak for an edit, ``ai-service-mark``
(services that generate and edit alike) for generation or an edit, ``none`` for nothing, the others for generation."""


@dataclass(frozen=True)
class Finding:
    """One mark of a generator.

    Attributes:
        code: one of :data:`CODES`.
        generator: its name in words.
        where: the field that held it.
        settings: name → value, as written in the file (hostile text).
        prompt: the prompt's text, or empty.
    """

    code: str
    generator: str
    where: str
    settings: dict[str, str] = field(default_factory=dict)
    prompt: str = ""


_UNNAMED = "a diffusion program"
_A1111 = re.compile(r"\bSteps: \d{1,4}\b")
_A1111_PAIR = re.compile(r"(?:^|, |\n)([A-Z][\w ]{0,40}): (\"[^\"]{0,400}\"|[^,\n]{0,200})")
_MIDJOURNEY_JOB = re.compile(
    r"Job ID: ?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})", re.IGNORECASE
)
_MARKS: tuple[tuple[str, str], ...] = (
    (r"made with openai labs|openai--imagegeneration", "OpenAI DALL·E 2"),
    (r"\bopenai\b.{0,40}\b(?:dall|image|api)|\bdall[·.\- ]?e ?[23]?\b|\bgpt[- ]?(?:4o|image)\b", "OpenAI"),
    (r"made with google ai|edited with google ai|\bgemini (?:image|\d)|\bimagen ?[234]\b", "Google"),
    (r"imagined with ai|made with (?:meta )?ai\b|meta ai", "Meta AI"),
    (r"adobe firefly|firefly (?:image|video)", "Adobe Firefly"),
    (r"\bmidjourney\b", "Midjourney"),
    (r"stable[- ]?diffusion|\bsdxl\b|stability[ .]?ai|dreamstudio", "Stable Diffusion"),
    (r"black[- ]forest[- ]labs|\bflux[. -]?[12]\b|\bmflux\b", "FLUX"),
    (r"bing image creator|microsoft designer", "Microsoft Designer"),
    (r"\bideogram(?:\.ai|ai)?\b", "Ideogram"),
    (r"leonardo[. ]ai", "Leonardo.Ai"),
    (r"\brecraft\b", "Recraft"),
    (r"\bnightcafe\b", "NightCafe"),
    (r"\bcraiyon\b", "Craiyon"),
    (r"\bdraw things\b", "Draw Things"),
    (
        r"\bai[- ]generated\b|generated (?:by|with|using) (?:an? )?(?:ai|artificial intelligence)\b",
        "an AI generator",
    ),
)
_SERVICES = frozenset({"Google", "Meta AI", "OpenAI", "xAI Grok", "Microsoft Designer"})
# Fields that software writes: a name alone is a mark. In what people write it is one only where it says so itself,
# for a photograph about a generator is not one made by it.
_SOFTWARE_FIELDS = frozenset(
    [
        "Software",
        "ProcessingSoftware",
        "HostComputer",
        "Model",
        "Make",
        "MakerNote",
        "Credit",
        "Source",
        "software",
        "source",
        "generator",
        "model",
        "creator",
        "ai_generated",
        "CreatorTool",
    ]
)
_FREE_FIELDS = frozenset(
    [
        "UserComment",
        "ImageDescription",
        "Artist",
        "Copyright",
        "comment",
        "Comment",
        "title",
        "Title",
        "description",
    ]
)
_SAYS_SO = re.compile(
    r"\b(?:made|created|generated|imagined|edited|produced) (?:with|by|using|in|on) |"
    r"\bai[- ]generated\b|openai--imagegeneration",
    re.IGNORECASE,
)
_SOURCE_TYPES = {
    "trainedalgorithmicmedia": ("iptc-trained-algorithmic", "wholly made by a trained model"),
    "compositewithtrainedalgorithmicmedia": (
        "iptc-composite-trained",
        "a composite with parts made by a trained model",
    ),
    "compositesynthetic": ("iptc-composite-trained", "a composite with synthetic parts"),
    "algorithmicmedia": ("generator-mark", "made by an algorithm"),
}


def _texts(container: Container) -> dict[str, str]:
    """All text fields by a name that says where they stand, each cut to the searched length."""
    fields = {f"text {key}": value for key, value in container.text.items()}
    fields |= {f"EXIF {key}": value for key, value in container.exif.items()}
    fields |= {f"IPTC {key}": value for key, value in container.iptc.items()}
    return {key: value[:SCAN] for key, value in fields.items()}


def _parameters(where: str, value: str) -> Finding | None:
    """AUTOMATIC1111's text, and the JSON that SwarmUI, Fooocus and Draw Things write in its place."""
    parsed = bounded_json(value)
    if isinstance(parsed, dict):
        swarm = parsed.get("sui_image_params")
        flat = swarm if isinstance(swarm, dict) else parsed
        known = {
            str(k).lower(): str(v) for k, v in list(flat.items())[:200] if isinstance(v, str | int | float)
        }
        keys = {
            "steps",
            "seed",
            "sampler",
            "cfg_scale",
            "cfgscale",
            "guidance_scale",
            "guidance",
            "base_model",
            "model",
        }
        name = "SwarmUI" if isinstance(swarm, dict) else "Fooocus" if "base_model" in known else ""
        name = name or ("mflux" if "mflux_version" in known else _UNNAMED)
        if swarm is None and len(keys & set(known)) < 3:
            return None
        prompt = known.get("prompt", known.get("c", ""))
        return Finding("sd-parameters", name, where, {k: known[k] for k in sorted(keys & set(known))}, prompt)
    if not _A1111.search(value):
        return None
    start = _A1111.search(value)
    tail = value[start.start() :] if start else ""
    settings = {m.group(1).strip(): m.group(2).strip('" ') for m in list(_A1111_PAIR.finditer(tail))[:64]}
    if not {"Sampler", "CFG scale", "Seed", "Size", "Model"} & set(settings):
        return None
    head = value[: start.start()] if start else ""
    version = settings.get("Version", "")
    name = "AUTOMATIC1111's web UI or one of its kin"
    for mark, other in (
        ("Fooocus", "Fooocus"),
        ("stable-diffusion.cpp", "stable-diffusion.cpp"),
        ("ComfyUI", "ComfyUI"),
    ):
        name = other if mark.lower() in version.lower() else name
    name = "SD.Next" if "SD.Next" in settings.get("App", "") or "SD.Next" in version else name
    inpainted = any(key.lower().startswith(("mask blur", "inpaint", "masked")) for key in settings)
    return Finding(
        "sd-inpainting" if inpainted else "sd-parameters",
        name,
        where,
        settings,
        head.split("Negative prompt:")[0],
    )


def _comfy(where: str, value: str) -> Finding | None:
    """ComfyUI's executed graph (``prompt``) or editor graph (``workflow``)."""
    value = re.sub(r"^\s{0,8}(?:prompt|workflow):", "", value, count=1, flags=re.IGNORECASE)
    parsed = bounded_json(value)
    if not isinstance(parsed, dict):
        # Graphs may be longer than the parser's cap: their shape at the start is telling enough.
        graph = re.search(r'"class_type"\s{0,4}:\s{0,4}"(\w{1,60})"|"last_node_id"\s{0,4}:', value)
        return Finding("comfyui", "ComfyUI", where) if graph and value.lstrip().startswith("{") else None
    nodes = parsed.get("nodes")
    if isinstance(nodes, list) and ("last_node_id" in parsed or "links" in parsed):
        kinds = [str(node.get("type", "")) for node in nodes[:2000] if isinstance(node, dict)]
        return (
            Finding("comfyui", "ComfyUI", where, {"nodes": str(len(kinds))} | _samplers(kinds))
            if kinds
            else None
        )
    inner = [node for node in list(parsed.values())[:2000] if isinstance(node, dict) and "class_type" in node]
    if not inner:
        return None
    settings = {"nodes": str(len(inner))} | _samplers([str(node["class_type"]) for node in inner])
    prompt = ""
    for node in inner:
        inputs = node.get("inputs")
        if not isinstance(inputs, dict):
            continue
        for key in ("seed", "steps", "cfg", "sampler_name", "ckpt_name", "unet_name"):
            if isinstance(inputs.get(key), str | int | float):
                settings.setdefault(key, str(inputs[key]))
        if not prompt and "TextEncode" in str(node["class_type"]) and isinstance(inputs.get("text"), str):
            prompt = inputs["text"]
    return Finding("comfyui", "ComfyUI", where, settings, prompt)


def _samplers(kinds: list[str]) -> dict[str, str]:
    named = [kind for kind in kinds if "sampler" in kind.lower()]
    return {"sampler node": named[0]} if named else {}


def _by_key(where: str, key: str, value: str) -> Finding | None:
    """Marks that a field's own name gives away."""
    name = key.lower().split(" (")[0]
    if name in ("invokeai_metadata", "invokeai_graph", "invokeai", "sd-metadata", "dream"):
        parsed = bounded_json(value)
        flat = parsed if isinstance(parsed, dict) else {}
        kept = {
            k: str(flat[k])
            for k in ("seed", "steps", "cfg_scale", "scheduler", "width", "height")
            if k in flat
        }
        prompt = flat.get("positive_prompt", "")
        return Finding("invokeai", "InvokeAI", where, kept, prompt if isinstance(prompt, str) else "")
    if name in ("prompt", "workflow", "exif:usercomment", "imagedescription", "make", "model", "usercomment"):
        found = _comfy(where, value)
        if found:
            return found
    if name in (
        "parameters",
        "exif:usercomment",
        "usercomment",
        "comment",
        "imagedescription",
        "description",
        "generation",
    ):
        return _parameters(where, value)
    if name == "fooocus_scheme":
        return Finding("sd-parameters", "Fooocus", where)
    if name == "use_stable_diffusion_model":
        return Finding("sd-parameters", "Easy Diffusion", where, {"Model": value})
    if name in ("aigc", "tc260:aigc") and "label" in value.lower():
        return Finding("generator-mark", "an AI service under China's labelling rule", where)
    return None


def _novelai(container: Container) -> Finding | None:
    if (
        "novelai"
        not in " ".join(container.text.get(key, "")[:200] for key in ("Software", "Source", "Title")).lower()
    ):
        return None
    parsed = bounded_json(container.text.get("Comment", "")[:SCAN])
    flat = parsed if isinstance(parsed, dict) else {}
    kept = {k: str(flat[k]) for k in ("steps", "sampler", "seed", "scale", "strength") if k in flat}
    return Finding("novelai", "NovelAI", "text Software", kept, container.text.get("Description", "")[:SCAN])


def _midjourney(fields: dict[str, str], xmp: str | None) -> Finding | None:
    candidates = [*fields.items(), *(("XMP description", value) for value in xmp_values(xmp, "description"))]
    for where, value in candidates:
        job = _MIDJOURNEY_JOB.search(value)
        if job:
            flags = dict(re.findall(r"--(v|ar|stylize|niji|seed|chaos)\s+([\w.:]{1,20})", value[:SCAN]))
            return Finding(
                "midjourney", "Midjourney", where, {"Job ID": job.group(1)} | flags, value.split(" --")[0]
            )
    return None


def _declared(container: Container, fields: dict[str, str]) -> Iterator[Finding]:
    """IPTC digital source types, and names of generators in fields that software writes."""
    kinds = xmp_values(container.xmp, "DigitalSourceType")
    kinds += [value for key, value in fields.items() if key.lower().endswith("digitalsourcetype")]
    for kind in kinds:
        leaf = re.split(r"[/:#]", kind.strip().rstrip("/"))[-1].lower()
        if leaf in _SOURCE_TYPES:
            code, meaning = _SOURCE_TYPES[leaf]
            yield Finding(code, meaning, "IPTC DigitalSourceType")
    if re.search(r"TC260:AIGC|<AIGC>|\bAIGC\s{0,4}=", (container.xmp or "")[:SCAN]):
        yield Finding("generator-mark", "an AI service under China's labelling rule", "XMP AIGC")
    marks = [("XMP CreatorTool", value) for value in xmp_values(container.xmp, "CreatorTool")]
    marks += [("XMP Credit", value) for value in xmp_values(container.xmp, "Credit")]
    for where, value in fields.items():
        leaf = where.partition(" ")[2].split(":")[-1].split(" (")[0]
        said = leaf in _FREE_FIELDS and _SAYS_SO.search(value[:2048])
        marks += [(where, value)] if said or leaf in _SOFTWARE_FIELDS else []
    for where, value in marks:
        for pattern, generator in _MARKS:
            if re.search(pattern, value[:2048], re.IGNORECASE):
                yield Finding(
                    "ai-service-mark" if generator in _SERVICES else "generator-mark", generator, where
                )
                break
    signature = fields.get("EXIF ImageDescription", "")
    artist = fields.get("EXIF Artist", "")
    if re.match(r"Signature: ?[A-Za-z0-9+/=]{40,}", signature) and re.fullmatch(r"[0-9a-f-]{36}", artist):
        yield Finding("ai-service-mark", "xAI Grok", "EXIF ImageDescription")


def find_generation(container: Container) -> list[Finding]:
    """Collect every mark of a generator, the most telling first (order of :data:`CODES`).

    Args:
        container: facts of the file; texts of any length and content.
    """
    fields = _texts(container)
    found = [f for f in (_novelai(container), _midjourney(fields, container.xmp)) if f]
    for where, value in fields.items():
        finding = _by_key(where, where.partition(" ")[2], value)
        if finding and not any(
            other.generator == finding.generator
            for other in found
            if len(other.settings) >= len(finding.settings)
        ):
            found.append(finding)
    for value in xmp_values(container.xmp, "UserComment"):
        finding = _parameters("XMP UserComment", value.replace("&quot;", '"').replace("&#xA;", "\n"))
        found += [finding] if finding else []
    found += _declared(container, fields)
    if any(finding.code in CODES[:6] and finding.generator != _UNNAMED for finding in found):
        found = [finding for finding in found if finding.generator != _UNNAMED]
    found.sort(key=lambda finding: (CODES.index(finding.code), -len(finding.settings)))
    return found


class GenerationParameters:
    """Evidence from what a generator wrote into the file; one finding, the most telling, with the others named."""

    name, version, cost = "generation_parameters", "1", "milliseconds"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence: what was found, or that nothing was."""
        found = find_generation(case.container)
        fields = len(_texts(case.container)) + (case.container.xmp is not None)
        recompute = {
            "version": self.version,
            "fields": fields,
            "findings": [[f.code, f.where[:80]] for f in found[:16]],
        }
        if not found:
            statement = (
                f"Of {count(fields, 'metadata field')}, 0 name a generator or AI origin; "
                "that says nothing, for metadata are easily removed."
            )
            return [Evidence(self.name, statement, code="none", recompute=recompute)]
        best = found[0]
        return [Evidence(self.name, self._sentence(best, found[1:]), code=best.code, recompute=recompute)]

    def _sentence(self, best: Finding, others: list[Finding]) -> str:
        if best.code.startswith("iptc"):
            text = f"The file's {best.where} field (1 declaration) says that the picture is {best.generator}"
        elif best.code.endswith("-mark"):
            text = f"The file's field {quote(best.where, 40)} (1 mark) names {best.generator} as its origin"
            text += ", a service that generates and edits pictures" if best.code == "ai-service-mark" else ""
        else:
            text = f"The file carries generation parameters of {best.generator} in its field {quote(best.where, 40)}"
            text += f": {count(len(best.settings), 'setting')}"
            shown = [f"{quote(k, 24)[1:-1]} {quote(v, 32)[1:-1]}" for k, v in list(best.settings.items())[:5]]
            text += f" ({'; '.join(shown)})" if shown else ""
            prompt = best.prompt.strip()
            text += f" and a prompt of {count(len(prompt), 'character')}, {quote(prompt)}" if prompt else ""
        more = sorted({finding.generator for finding in others} - {best.generator})
        text += f"; also named: {', '.join(more[:3])}" if more else ""
        return text + "."
