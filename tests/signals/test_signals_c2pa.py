"""C2PA: signed in the test with a certificate made in the test; the network stays silent."""

from __future__ import annotations

import datetime
import io
import json
import socket
import threading

import pytest
from PIL import Image
from skimage import data

from vlmforensics.imaging import open_case
from vlmforensics.settings import Settings
from vlmforensics.signals.provenance import ContentCredentials, read_credentials

c2pa = pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")

NEWSCODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def plain_jpeg(xmp: str | None = None) -> bytes:
    out = io.BytesIO()
    options = {"xmp": xmp.encode()} if xmp else {}
    Image.fromarray(data.chelsea()[:128, :128]).save(out, "JPEG", quality=90, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def signer():
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.datetime.now(datetime.UTC)

    def name(text):
        return x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, text),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Made For A Test"),
            ]
        )

    def usage(sign, certificates):
        return x509.KeyUsage(sign, False, False, False, False, certificates, certificates, False, False)

    def build(subject, public, serial, authority, can_sign):
        builder = (
            x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("Root")).public_key(public)
        )
        builder = builder.serial_number(serial).not_valid_before(now - datetime.timedelta(1))
        builder = builder.not_valid_after(now + datetime.timedelta(30))
        builder = builder.add_extension(x509.BasicConstraints(authority, None), True)
        builder = builder.add_extension(usage(can_sign, authority), True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False
        )
        if not authority:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False
            )
        return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    chain = build("Signer", key.public_key(), 2, False, True) + build(
        "Root", root_key.public_key(), 1, True, False
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return c2pa.Signer.from_info(c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, chain, private, None))


def sign(
    signer,
    action: dict,
    picture: bytes | None = None,
    remote: str | None = None,
    held: dict | None = None,
    extra: dict | None = None,
) -> bytes:
    """A signed picture; ``held`` are its ingredients by relationship, each with an action; then ``extra``."""
    uses = {"parentOf": "c2pa.opened", "componentOf": "c2pa.placed"}
    steps = [{"action": uses[name], "parameters": {"ingredientIds": [name]}} for name in held or ()]
    manifest = {
        "claim_generator_info": [{"name": "Test Generator [E9]", "version": "1"}],
        "format": "image/jpeg",
        "assertions": [
            {
                "label": "c2pa.actions",
                "data": {"actions": [*steps, extra] if steps and extra else steps or [action]},
            }
        ],
    }
    context = c2pa.Context(
        c2pa.Settings.from_dict({"verify": {"remote_manifest_fetch": False, "verify_after_sign": False}})
    )
    builder, out = c2pa.Builder(json.dumps(manifest), context), io.BytesIO()
    if remote:
        builder.set_no_embed()
        builder.set_remote_url(remote)
    for name, ingredient in (held or {}).items():
        described = json.dumps({"title": name, "format": "image/jpeg", "relationship": name, "label": name})
        builder.add_ingredient(described, "image/jpeg", io.BytesIO(ingredient))
    builder.sign(signer, "image/jpeg", io.BytesIO(picture or plain_jpeg()), out)
    return out.getvalue()


def examine(picture: bytes):
    return ContentCredentials().examine(open_case(picture, settings=Settings(sandbox=False)))


def test_no_manifest_says_nothing():
    assert examine(plain_jpeg()) == []


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("trainedAlgorithmicMedia", "ai-generated"),
        ("compositeWithTrainedAlgorithmicMedia", "ai-edited"),
        ("digitalCapture", "signed"),
    ],
)
def test_declared_source(signer, kind, code):
    (evidence,) = examine(sign(signer, {"action": "c2pa.created", "digitalSourceType": NEWSCODES + kind}))
    assert evidence.source == "c2pa"
    assert evidence.code == code
    assert "1 C2PA manifest" in evidence.statement
    assert "on no trust list" in evidence.statement
    assert "Made For A Test" in evidence.statement
    assert "[" not in evidence.statement


def test_an_edit_by_a_trained_model_makes_no_generated_picture(signer):
    photograph = sign(signer, {"action": "c2pa.created", "digitalSourceType": NEWSCODES + "digitalCapture"})
    edit = {"action": "c2pa.edited", "digitalSourceType": NEWSCODES + "trainedAlgorithmicMedia"}
    (evidence,) = examine(sign(signer, {}, held={"parentOf": photograph}, extra=edit))
    assert evidence.code == "ai-edited"


def test_a_generated_picture_stays_one_when_a_model_edits_it(signer):
    kind = NEWSCODES + "trainedAlgorithmicMedia"
    made = sign(signer, {"action": "c2pa.created", "digitalSourceType": kind})
    edit = {"action": "c2pa.edited", "digitalSourceType": kind}
    (evidence,) = examine(sign(signer, {}, held={"parentOf": made}, extra=edit))
    assert evidence.code == "ai-generated"


def test_a_generated_parent_makes_the_picture_generated_a_generated_part_makes_it_edited(signer):
    generated = sign(
        signer, {"action": "c2pa.created", "digitalSourceType": NEWSCODES + "trainedAlgorithmicMedia"}
    )
    saved = sign(signer, {}, held={"parentOf": generated})
    again = sign(signer, {}, held={"parentOf": saved})
    placed = sign(signer, {}, held={"parentOf": plain_jpeg(), "componentOf": generated})
    codes = [examine(picture)[0].code for picture in (saved, again, placed)]
    assert codes == ["ai-generated", "ai-generated", "ai-edited"]


def test_changed_after_signing(signer):
    picture = bytearray(
        sign(signer, {"action": "c2pa.created", "digitalSourceType": NEWSCODES + "trainedAlgorithmicMedia"})
    )
    picture[-40] ^= 0x10
    found = read_credentials(bytes(picture), "image/jpeg")
    assert found is not None
    assert found.state == "Invalid"
    assert any("mismatch" in failure for failure in found.failures)


def test_damaged_manifest_is_unreadable_not_an_error(signer):
    picture = sign(signer, {"action": "c2pa.created", "digitalSourceType": NEWSCODES + "digitalCapture"})
    at = picture.index(b"jumb")
    damaged = picture[: at + 60] + b"\xff" * 40 + picture[at + 100 :]
    found = read_credentials(damaged, "image/jpeg")
    assert found is None or found.state in ("Unreadable", "Invalid")


@pytest.fixture
def listener():
    """A server on a loopback port that records every connection."""
    calls: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    stop = threading.Event()

    def serve():
        while not stop.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                calls.append(connection.recv(4096))

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa", calls
    stop.set()
    thread.join()
    server.close()


def provenance(url: str) -> str:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{url}"/>'
        "</rdf:RDF></x:xmpmeta>"
    )


def test_remote_manifest_is_reported_and_never_fetched(listener):
    url, calls = listener
    (evidence,) = examine(plain_jpeg(provenance(url)))
    assert evidence.code == "remote"
    assert calls == [], "the picture's address must not be asked"


def test_the_listener_would_hear_a_fetch(listener):
    """Without our settings the library does call: the silence above is not the listener's deafness."""
    url, calls = listener
    try:
        reader = c2pa.Reader.try_create("image/jpeg", io.BytesIO(plain_jpeg(provenance(url))))
        if reader is not None:
            reader.close()
    except c2pa.C2paError:
        pass
    assert calls


def test_signed_remote_manifest(signer, listener):
    url, calls = listener
    action = {"action": "c2pa.created", "digitalSourceType": NEWSCODES + "trainedAlgorithmicMedia"}
    (evidence,) = examine(sign(signer, action, remote=url))
    assert evidence.code == "remote"
    assert calls == []
