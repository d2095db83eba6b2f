"""Envelopes of signed payloads: DSSE 1.0 (github.com/secure-systems-lab/dsse), with Ed25519.

The type of the payload is signed along with it, so that no signature counts for anything else. The payload is
not parsed before a trusted key is known to have signed it.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hindsight.errors import VerificationError
from hindsight.models.keys import Trust, key_id

MAX_SIGNATURES = 16

_REMEDY = "do not use it; fetch it again"


@dataclass(frozen=True)
class Opened:
    """A payload that a trusted key signed: its bytes, the id of the key, and the trust file of it."""

    payload: bytes
    key: str
    file: str


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What is signed (PAE): the type and the payload, each with its length."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """The envelope, one line of JSON. The same arguments give the same bytes."""
    signature = key.sign(pre_authentication(payload_type, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [
            {"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()},
        ],
    }
    return json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def unseal(data: bytes, payload_type: str, trust: Trust) -> Opened:
    """The payload of an envelope, if at least one of its signatures is of a key in ``trust``.

    Raises VerificationError for another form, another type, or no such signature.
    """
    try:
        envelope = json.loads(data)
        kind, payload = envelope["payloadType"], _decode(envelope["payload"])
        signatures = [(str(s.get("keyid", "")), _decode(s["sig"])) for s in envelope["signatures"]]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise VerificationError("this is no DSSE envelope", _REMEDY) from None
    if kind != payload_type:
        raise VerificationError(f"the envelope holds something else than {payload_type}", _REMEDY)
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise VerificationError(f"the envelope has no signature, or more than {MAX_SIGNATURES}", _REMEDY)
    signed = pre_authentication(payload_type, payload)
    for identity, signature in signatures:
        # The id is a hint that nobody signed, and other tools write others: the keys decide.
        known = trust.keys.get(identity)
        for key in trust.keys.items() if known is None else [(identity, known)]:
            if _verifies(key[1].public, signature, signed):
                return Opened(payload, key[0], key[1].file)
    known = next((trust.keys[identity] for identity, _ in signatures if identity in trust.keys), None)
    if known is not None:
        raise VerificationError(f"the signature is not one of this payload by {known.file}", _REMEDY)
    raise VerificationError(
        f"the envelope is signed by no key that is in {trust.directory}",
        "if you trust its maker, get the public key from them by another way and put it there",
    )


def _verifies(public: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        public.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _decode(text: str) -> bytes:
    """Base64 of either alphabet, as the specification asks."""
    try:
        return base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
