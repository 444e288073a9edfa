"""C2PA content credentials: who signed, whether the signature holds, and what the manifest declares.

A valid signature proves who signed, not that the statement is true; without a trust list the signer is unknown. Only
a declaration of AI generation or AI editing points anywhere. Nothing is fetched: a remote manifest is reported as
declared, revocation is not looked up.

Reference: C2PA Technical Specification 2.x; IPTC NewsCodes, digital source type.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vlmforensics.signals.wording import bounded_json, count, quote
from vlmforensics.types import CaseImage, Evidence

CODES = ("ai-generated", "ai-edited", "invalid", "signed", "remote", "unreadable")
"""Outcomes. ``signed`` covers captures and edits alike, for anyone can sign; only the first two speak for a label."""

_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
    "AVIF": "image/avif",
    "HEIC": "image/heic",
}
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
# A manifest store is a JUMBF superbox; a remote one is declared in XMP (dcterms:provenance) or named as such.
_SIGNS_OF_MANIFEST = (b"jumb", b"c2pa", b"provenance")
_MAX_MANIFESTS = 64


@dataclass(frozen=True)
class Credentials:
    """What a manifest store says.

    Attributes:
        state: ``Trusted``, ``Valid``, ``Invalid``, ``Remote`` or ``Unreadable``.
        signer: common name and issuer as in the certificate (hostile text), or empty.
        generator: software that made the claim (hostile text), or empty.
        source_types: last path segment of every digital source type, the active manifest's first.
        origin: the one with which the picture itself was created, by the active manifest or else its parent, and so
            on; empty where none says so. What was placed in it, or done to it, has types of its own.
        manifests: number in the store.
        failures: validation failure codes other than an untrusted signer, sorted.
    """

    state: str
    signer: str = ""
    generator: str = ""
    source_types: tuple[str, ...] = ()
    origin: str = ""
    manifests: int = 0
    failures: tuple[str, ...] = ()


def read_credentials(data: bytes, media_type: str) -> Credentials | None:
    """Read and validate a picture's manifest store without touching the network.

    Args:
        data: the file's bytes.
        media_type: e.g. ``image/jpeg``.

    Returns:
        None where there is no manifest and none is declared.
    """
    lower = data.lower()  # several times as fast as one pattern that ignores case, on files of any content
    if not any(sign in lower for sign in _SIGNS_OF_MANIFEST):
        return None
    import c2pa

    context = c2pa.Context(c2pa.Settings.from_dict(_OFFLINE))
    try:
        reader = c2pa.Reader.try_create(media_type, io.BytesIO(data), context=context)
        if reader is None:
            return None
        with reader:
            return _summary(reader)
    except c2pa.C2paError as error:
        text = str(error)
        if "remote manifest" in text.lower() or "RemoteManifest" in text:
            return Credentials("Remote")
        # The library also refuses containers that it can't parse and that hold no manifest at all.
        return Credentials("Unreadable") if _holds_store(data) else None


def _holds_store(data: bytes) -> bool:
    """Whether ``c2pa`` stands within 256 bytes behind ``jumb``, as in the description of a manifest store.

    From each ``c2pa`` backwards: a file full of ``jumb`` must not cost 256 steps for each of them.
    """
    at = data.find(b"c2pa")
    while at >= 0:
        before = data.rfind(b"jumb", max(0, at - 260), at)
        if before >= 0:
            return True
        at = data.find(b"c2pa", at + 4)
    return False


def _summary(reader: Any) -> Credentials:
    """Reduce the library's JSON to what is judged; the JSON is hostile and may be of any shape."""
    store = bounded_json(reader.json())
    store = store if isinstance(store, dict) else {}
    manifests = store.get("manifests")
    manifests = manifests if isinstance(manifests, dict) else {}
    label = store.get("active_manifest")
    active = manifests.get(label) if isinstance(label, str) else None
    active = active if isinstance(active, dict) else {}
    signature = active.get("signature_info")
    signature = signature if isinstance(signature, dict) else {}
    names = [str(signature[key]) for key in ("common_name", "issuer") if signature.get(key)]
    info = active.get("claim_generator_info")
    tool = info[0] if isinstance(info, list) and info and isinstance(info[0], dict) else {}
    others = [manifest for key, manifest in list(manifests.items())[:_MAX_MANIFESTS] if key != label]
    kinds = [kind for manifest in (active, *others) for _, kind in _source_types(manifest)]
    own = (step for manifest in _lineage(manifests, label) for step in _source_types(manifest))
    return Credentials(
        state=str(reader.get_validation_state()),
        signer=", ".join(names),
        generator=str(tool.get("name", active.get("claim_generator", ""))),
        source_types=tuple(dict.fromkeys(kinds)),
        origin=next((kind for action, kind in own if action == "c2pa.created"), ""),
        manifests=len(manifests),
        failures=_failures(store),
    )


def _lineage(manifests: dict[str, Any], label: Any) -> Iterator[Any]:
    """The manifest with that label, that of its parent (the picture before an edit), and so on."""
    seen: set[str] = set()
    while isinstance(label, str) and label not in seen and len(seen) < _MAX_MANIFESTS:
        seen.add(label)
        manifest = manifests.get(label)
        yield manifest
        ingredients = manifest.get("ingredients") if isinstance(manifest, dict) else None
        parents = (
            item.get("active_manifest")
            for item in (ingredients[:256] if isinstance(ingredients, list) else ())
            if isinstance(item, dict) and item.get("relationship") == "parentOf"
        )
        label = next(parents, None)


def _source_types(manifest: Any) -> Iterator[tuple[str, str]]:
    """A manifest's actions that have a digital source type, and this: lower case, last segment of the address."""
    assertions = manifest.get("assertions") if isinstance(manifest, dict) else None
    for assertion in assertions[:256] if isinstance(assertions, list) else ():
        if not isinstance(assertion, dict) or not str(assertion.get("label", "")).startswith("c2pa.actions"):
            continue
        content = assertion.get("data")
        actions = content.get("actions") if isinstance(content, dict) else None
        for action in actions[:256] if isinstance(actions, list) else ():
            kind = action.get("digitalSourceType") if isinstance(action, dict) else None
            if isinstance(kind, str):
                yield str(action.get("action", "")), kind.rsplit("/", 1)[-1].lower()


def _failures(store: dict[str, Any]) -> tuple[str, ...]:
    status = store.get("validation_status")
    codes = (
        {str(item.get("code")) for item in status if isinstance(item, dict)}
        if isinstance(status, list)
        else set()
    )
    return tuple(sorted(codes - {"signingCredential.untrusted"}))[:8]


def _code(found: Credentials) -> str:
    if found.state in ("Remote", "Unreadable"):
        return found.state.lower()
    if found.state == "Invalid":
        return "invalid"
    if found.origin == "trainedalgorithmicmedia":
        return "ai-generated"
    if any("trainedalgorithmicmedia" in kind or kind == "compositesynthetic" for kind in found.source_types):
        return "ai-edited"
    return "signed"


class ContentCredentials:
    """Evidence from a C2PA manifest; none where there is no manifest, which says nothing."""

    name, version, cost = "c2pa", "1", "milliseconds"

    def examine(self, case: CaseImage) -> list[Evidence]:
        """Return one evidence where a manifest is there or declared, else an empty list."""
        media_type = _TYPES.get(case.container.format)
        found = read_credentials(case.data, media_type) if media_type else None
        if found is None:
            return []
        code = _code(found)
        recompute = {
            "version": self.version,
            "settings": json.dumps(_OFFLINE, sort_keys=True),
            "state": found.state,
            "source_types": [kind[:80] for kind in found.source_types[:16]],
        }
        return [Evidence(self.name, self._sentence(found, code), code=code, recompute=recompute)]

    def _sentence(self, found: Credentials, code: str) -> str:
        if code == "remote":
            return (
                "The file declares 1 remote C2PA manifest, which was not fetched; "
                "what it would say is unknown and weighs nothing."
            )
        if code == "unreadable":
            return "The file holds 1 C2PA manifest store that can't be read; that may be damage or another version."
        text = f"The file holds {count(found.manifests, 'C2PA manifest')}, signed by {quote(found.signer or 'unknown')}"
        text += f" with {quote(found.generator, 40)}" if found.generator else ""
        if code == "invalid":
            named = ", ".join(quote(failure, 48)[1:-1] for failure in found.failures) or "no reason given"
            text += f", but it fails validation ({named})"
            return f"{text}: the file was changed after signing or the manifest is damaged."
        text += ", signature intact" + (
            "" if found.state == "Trusted" else ", signer on no trust list that is in use"
        )
        if code == "ai-generated":
            return f"{text}; it declares the picture to be made by a trained model."
        if code == "ai-edited":
            return f"{text}; it declares parts or ingredients made by a trained model."
        kinds = ", ".join(quote(kind, 40)[1:-1] for kind in found.source_types[:3]) or "no digital source"
        return f"{text}; it declares {kinds}, which proves who signed and not what the picture shows."
