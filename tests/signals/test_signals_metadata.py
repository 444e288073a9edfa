"""Planted metadata of every known generator, editors and cameras; hostile values; untouched files."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from skimage import data

from vlmforensics.imaging import open_case
from vlmforensics.settings import Settings
from vlmforensics.signals.camera import CameraExif
from vlmforensics.signals.editing import EditorTraces
from vlmforensics.signals.generation import CODES, GenerationParameters
from vlmforensics.signals.wording import bounded_json, quote, xmp_values
from vlmforensics.types import Container

A1111 = (
    "a lighthouse at dusk, oil painting\nNegative prompt: blurry, text\n"
    "Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1234567890, Size: 512x768, Model hash: abc123, "
    "Model: dreamshaper_8, Version: v1.10.1"
)
COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 42, "steps": 20, "cfg": 8.0, "sampler_name": "euler", "model": ["4", 0]},
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a glass bottle with a galaxy inside"}},
}
WORKFLOW = {
    "last_node_id": 9,
    "links": [],
    "nodes": [{"id": 3, "type": "KSampler"}, {"id": 4, "type": "VAEDecode"}],
}
NEWSCODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def xmp(body: str) -> str:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f"<rdf:Description {body}</rdf:RDF></x:xmpmeta>"
    )


def png(texts: dict[str, str] | None = None, packet: str | None = None):
    info = PngImagePlugin.PngInfo()
    for key, value in (texts or {}).items():
        info.add_text(key, value) if value.isascii() else info.add_itxt(key, value)
    if packet:
        info.add_itxt("XML:com.adobe.xmp", packet)
    out = io.BytesIO()
    Image.fromarray(data.chelsea()[:96, :128]).save(out, "PNG", pnginfo=info)
    return open_case(out.getvalue(), settings=Settings(sandbox=False))


def jpeg(
    exif: dict[int, object] | None = None, inner: dict[int, object] | None = None, size=(128, 96), **options
):
    block = Image.Exif()
    for tag, value in (exif or {}).items():
        block[tag] = value
    for tag, value in (inner or {}).items():
        block.get_ifd(0x8769)[tag] = value
    out = io.BytesIO()
    Image.fromarray(data.chelsea()[: size[1], : size[0]]).save(out, "JPEG", exif=block, **options)
    return open_case(out.getvalue(), settings=Settings(sandbox=False))


def generation(case):
    (evidence,) = GenerationParameters().examine(case)
    assert evidence.code in CODES
    return evidence


GENERATORS = {
    "a1111": ({"parameters": A1111}, "sd-parameters", "28"),
    "forge": (
        {"parameters": A1111.replace("v1.10.1", "f2.0.1v1.10.1-previous-1")},
        "sd-parameters",
        "Euler|DPM",
    ),
    "a1111 inpainting": (
        {"parameters": A1111 + ", Mask blur: 4, Denoising strength: 0.75"},
        "sd-inpainting",
        "28",
    ),
    "sd.next": (
        {"parameters": A1111.replace("Version: v1.10.1", "App: SD.Next")},
        "sd-parameters",
        "SD.Next",
    ),
    "sdcpp": (
        {"parameters": A1111.replace("v1.10.1", "stable-diffusion.cpp")},
        "sd-parameters",
        "stable-diffusion.cpp",
    ),
    "swarm": (
        {
            "parameters": json.dumps(
                {"sui_image_params": {"prompt": "a cat", "model": "flux", "seed": 5, "steps": 20}}
            )
        },
        "sd-parameters",
        "SwarmUI",
    ),
    "fooocus": (
        {
            "parameters": json.dumps(
                {"prompt": "a cat", "base_model": "juggernaut", "seed": "9", "steps": 30, "sampler": "x"}
            ),
            "fooocus_scheme": "fooocus",
        },
        "sd-parameters",
        "Fooocus",
    ),
    "easy diffusion": (
        {"use_stable_diffusion_model": "sd-v1-5", "prompt": "a dog"},
        "sd-parameters",
        "Easy Diffusion",
    ),
    "comfy prompt": ({"prompt": json.dumps(COMFY)}, "comfyui", "sd_xl_base|galaxy"),
    "comfy workflow": ({"workflow": json.dumps(WORKFLOW)}, "comfyui", "2"),
    "comfy both": ({"workflow": json.dumps(WORKFLOW), "prompt": json.dumps(COMFY)}, "comfyui", "ComfyUI"),
    "invoke": (
        {
            "invokeai_metadata": json.dumps(
                {"positive_prompt": "a fox", "seed": 3, "steps": 30, "cfg_scale": 7.5}
            )
        },
        "invokeai",
        "30",
    ),
    "invoke old": ({"sd-metadata": json.dumps({"app_id": "invoke-ai/InvokeAI"})}, "invokeai", "InvokeAI"),
    "novelai": (
        {
            "Software": "NovelAI",
            "Source": "Stable Diffusion XL 7BCCAA2C",
            "Description": "1girl, masterpiece",
            "Comment": json.dumps({"steps": 28, "sampler": "k_euler", "seed": 77, "scale": 5.0}),
        },
        "novelai",
        "28",
    ),
    "midjourney": (
        {"Description": "a red fox in snow --ar 3:2 --v 6.1 Job ID: 5a1f8e1c-1111-4222-8333-944455556666"},
        "midjourney",
        "5a1f8e1c",
    ),
    "google": ({"Credit": "x", "Comment": "Made with Google AI"}, "ai-service-mark", "Google"),
    "unicode prompt": ({"parameters": "naïve café 夜\n" + A1111.split("\n", 2)[2]}, "sd-parameters", "夜"),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_in_png(name):
    import re

    texts, code, word = GENERATORS[name]
    evidence = generation(png(texts))
    assert evidence.code == code
    assert re.search(word, evidence.statement), evidence.statement


def test_a1111_in_exif_comment():
    comment = b"UNICODE\x00" + A1111.encode("utf-16-be")
    assert generation(jpeg(inner={0x9286: comment})).code == "sd-parameters"


def test_comfy_in_exif_of_webp():
    case = jpeg(exif={0x010F: "workflow:" + json.dumps(WORKFLOW), 0x0110: "prompt:" + json.dumps(COMFY)})
    assert generation(case).code == "comfyui"


def test_openai_labs_mark():
    maker = {
        0x927C: b"OpenAI--ImageGeneration--generation-HcvFJ3V5",
        0x9286: b"ASCII\x00\x00\x00Made with OpenAI Labs",
    }
    evidence = generation(jpeg(inner=maker))
    assert evidence.code == "generator-mark"
    assert "OpenAI" in evidence.statement


def test_grok_signature():
    case = jpeg(
        exif={0x010E: "Signature: " + "Ab3+" * 20, 0x013B: "0f7c1fd0-1234-4abc-9def-0123456789ab"},
    )
    assert "Grok" in generation(case).statement


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("trainedAlgorithmicMedia", "iptc-trained-algorithmic"),
        ("compositeWithTrainedAlgorithmicMedia", "iptc-composite-trained"),
        ("digitalCapture", "none"),
    ],
)
@pytest.mark.parametrize("form", ["attribute", "element", "resource"])
def test_digital_source_type(kind, code, form):
    name, url = "Iptc4xmpExt:DigitalSourceType", NEWSCODES + kind
    body = {
        "attribute": f'{name}="{url}"/>',
        "element": f"><{name}>{url}</{name}></rdf:Description>",
        "resource": f'><{name} rdf:resource="{url}"></{name}></rdf:Description>',
    }[form]
    assert generation(png(packet=xmp(body))).code == code


def test_declaration_outranks_nothing_and_parameters_outrank_marks():
    case = png(
        {"parameters": A1111, "Software": "Stable Diffusion"},
        xmp(f'x:DigitalSourceType="{NEWSCODES}trainedAlgorithmicMedia"/>'),
    )
    assert generation(case).code == "sd-parameters"


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"Comment": "We saw 12 lighthouses. Steps: 199 to the top."},
        {"Description": "An article about Midjourney and DALL-E"},
        {"Keywords": "Stable Diffusion, review"},
        {"parameters": "exposure 1/60, f/2.8"},
        {"prompt": "say cheese"},
        {"workflow": '{"nodes": "none"}'},
        {"Title": "Gemini over the harbour", "Author": "Imogen Firefly"},
        {"Comment": "Stable Diffusion talk, slide 4"},
    ],
)
def test_no_false_generator(texts):
    evidence = generation(png(texts))
    assert evidence.code == "none", evidence.statement
    assert "says nothing" in evidence.statement


HOSTILE = [
    "[" * 100_000,
    '{"a":' * 5_000 + "1" + "}" * 5_000,
    "Steps: 1, " * 20_000,
    "Steps: 20, Sampler: [E1] <script>alert(1)</script>, Seed: 1\u202eevil",
    '{"1": {"class_type": ' + "9" * 5000 + "}}",
    '{"1": {"class_type": "CLIPTextEncode", "inputs": []}, "2": null}',
    "workflow:" * 1000,
    "\x00" * 500,
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(
    "key", ["parameters", "prompt", "workflow", "Comment", "invokeai_metadata", "Software"]
)
def test_hostile_metadata_is_short_and_harmless(key, value):
    container = Container(
        "PNG", "RGB", 8, text={key: value}, exif={"Software": value, "Make": value}, xmp=value
    )
    pixels = np.zeros((64, 64, 3), np.uint8)
    from vlmforensics.types import CaseImage

    case = CaseImage("x", value.encode()[:5000], "0" * 64, container, pixels, pixels)
    for source in (GenerationParameters(), EditorTraces(), CameraExif()):
        for evidence in source.examine(case):
            assert len(evidence.statement) < 900
            assert not set("[]<>\u202e\x00\n") & set(evidence.statement)


def test_bounded_json_refuses_depth_and_length():
    assert bounded_json('{"a": [1, 2]}') == {"a": [1, 2]}
    assert bounded_json("[" * 80 + "]" * 80) is None
    assert bounded_json("[" + "1," * 1_000_000 + "1]") is None
    assert bounded_json("not json") is None


def test_quote_folds_and_caps():
    assert quote("a\n b\tc") == "“a b c”"
    assert len(quote("x" * 5000, 40)) == 42
    assert "\u202e" not in quote("abc\u202edef")


def test_xmp_values_reads_both_forms_and_is_bounded():
    assert xmp_values(xmp('xmp:CreatorTool="GIMP 2.10"/>'), "CreatorTool") == ["GIMP 2.10"]
    assert xmp_values(xmp("><xmp:CreatorTool>GIMP 3</xmp:CreatorTool></rdf:Description>"), "CreatorTool") == [
        "GIMP 3"
    ]
    assert len(xmp_values("a:b='1' " * 1000, "b", cap=5)) == 5
    assert xmp_values(None, "x") == []


EDITORS = {
    "Adobe Photoshop 25.0 (Macintosh)": "editor",
    "GIMP 2.10.36": "editor",
    "paint.net 5.0": "editor",
    "Adobe Photoshop Lightroom Classic 13.1": "editor",
    "Capture One 23 Macintosh": "developer",
    "Picasa": "developer",
    "Topaz Photo AI 3": "ai-editor",
    "ImageMagick 7.1": "converter",
    "17.4.1": "camera-firmware",
    "Ver.1.10": "camera-firmware",
    "G991BXXU5CVF3": "camera-firmware",
    "Wombat Studio Deluxe": "unknown-software",
}


@pytest.mark.parametrize("software", EDITORS)
def test_software_tag(software):
    (evidence,) = EditorTraces().examine(jpeg(exif={0x0131: software, 0x010F: "Maker", 0x0110: "One"}))
    assert evidence.code == EDITORS[software]


def test_xmp_history_is_counted():
    steps = "".join(
        f'<rdf:li stEvt:action="saved" stEvt:softwareAgent="Adobe Photoshop {n}.0"/>' for n in range(3)
    )
    (evidence,) = EditorTraces().examine(
        png(packet=xmp(f"><xmpMM:History><rdf:Seq>{steps}</rdf:Seq></xmpMM:History>"))
    )
    assert evidence.code == "editor"
    assert "3 steps" in evidence.statement


def test_photoshop_resources_are_seen_and_iptc_alone_is_not():
    from dataclasses import replace

    case = jpeg()
    block = b"Photoshop 3.0\x008BIM\x03\xed\x00\x00\x00\x00\x00\x02\x00\x00"
    assert EditorTraces().examine(replace(case, data=case.data + block))[0].code == "editor"
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00\x00\x00\x00\x02\x00\x00"
    assert EditorTraces().examine(replace(case, data=case.data + iptc)) == []


def test_library_comment_is_a_converter_and_a_persons_comment_is_no_trace():
    (evidence,) = EditorTraces().examine(
        jpeg(comment=b"CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), quality = 82")
    )
    assert evidence.code == "converter"
    assert EditorTraces().examine(jpeg(comment=b"Grandmother in the garden")) == []


CAMERA = {0x010F: "Canon", 0x0110: "EOS R5"}
EXPOSURE = {0x829A: 0.005, 0x829D: 2.8, 0x8827: 400, 0x920A: 50.0, 0x9003: "2024:05:01 10:11:12"}


def test_camera_exif():
    (evidence,) = CameraExif().examine(jpeg(CAMERA, EXPOSURE | {0xA002: 128, 0xA003: 96}))
    assert evidence.code == "camera-consistent"
    assert "close to no evidence" in evidence.statement
    (evidence,) = CameraExif().examine(jpeg(CAMERA, EXPOSURE | {0xA002: 6000, 0xA003: 4000}))
    assert evidence.code == "camera-inconsistent"
    assert "6000 × 4000" in evidence.statement
    (evidence,) = CameraExif().examine(jpeg(CAMERA, EXPOSURE | {0x829D: 9999.0}))
    assert evidence.code == "camera-inconsistent"
    (evidence,) = CameraExif().examine(jpeg(CAMERA))
    assert evidence.code == "camera-stub"
    assert CameraExif().examine(jpeg()) == []
