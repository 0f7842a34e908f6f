"""Who may call what: hashed bearer tokens, roles, and one policy table over every RPC."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import grpc

from gateway.contract.errors import Fault, Reason


class Role(StrEnum):
    """What a token lets its holder do."""

    DATA_SCIENTIST = "data_scientist"
    ML_ENGINEER = "ml_engineer"
    APPROVER = "approver"
    AUDITOR = "auditor"
    CALLER = "caller"
    GATEWAY = "gateway"
    FEATURE_WRITER = "feature_writer"
    OPERATOR = "operator"


BUILDERS: Final = frozenset({Role.DATA_SCIENTIST, Role.ML_ENGINEER})
READERS: Final = BUILDERS | {Role.APPROVER, Role.AUDITOR, Role.OPERATOR}
MOVERS: Final = frozenset({Role.ML_ENGINEER, Role.OPERATOR})
APPROVERS: Final = frozenset({Role.APPROVER})
OPERATORS: Final = frozenset({Role.OPERATOR})
GATEWAYS: Final = frozenset({Role.GATEWAY})

POLICY: Final[Mapping[str, frozenset[Role]]] = MappingProxyType(
    {
        "/control.v1.RegistryService/UploadArtifact": BUILDERS,
        "/control.v1.RegistryService/DownloadArtifact": READERS,
        "/control.v1.RegistryService/RegisterVersion": BUILDERS,
        "/control.v1.RegistryService/ListModels": READERS,
        "/control.v1.RegistryService/ListVersions": READERS,
        "/control.v1.RegistryService/GetVersion": READERS,
        "/control.v1.FeaturesService/ApplyView": BUILDERS,
        "/control.v1.FeaturesService/ListViews": READERS | {Role.FEATURE_WRITER},
        "/control.v1.FeaturesService/Materialize": frozenset({Role.FEATURE_WRITER, Role.ML_ENGINEER}),
        "/control.v1.GovernanceService/ListApprovals": READERS,
        "/control.v1.GovernanceService/ApproveVersion": APPROVERS,
        "/control.v1.GovernanceService/RejectVersion": APPROVERS,
        "/control.v1.GovernanceService/CreateToken": OPERATORS,
        "/control.v1.GovernanceService/ListTokens": OPERATORS | {Role.AUDITOR},
        "/control.v1.GovernanceService/RevokeToken": OPERATORS,
        "/control.v1.GovernanceService/ListAudit": READERS,
        "/control.v1.GovernanceService/VerifyAudit": READERS,
        "/control.v1.RolloutService/PromoteVersion": MOVERS,
        "/control.v1.RolloutService/TryVersion": MOVERS,
        "/control.v1.RolloutService/RollBack": MOVERS,
        "/control.v1.RolloutService/StopModel": MOVERS,
        "/control.v1.RolloutService/StartModel": MOVERS,
        "/control.v1.RolloutService/RetireVersion": MOVERS,
        "/control.v1.RolloutService/StartRollout": MOVERS,
        "/control.v1.RolloutService/ListRollouts": READERS,
        "/control.v1.RolloutService/GetRollout": READERS,
        "/control.v1.RolloutService/PauseRollout": MOVERS,
        "/control.v1.RolloutService/ResumeRollout": MOVERS,
        "/control.v1.RolloutService/PromoteRollout": APPROVERS,
        "/control.v1.RolloutService/RollBackRollout": MOVERS,
        "/control.v1.RolloutService/GetStatus": READERS,
        "/control.v1.DataPlaneService/WatchRoutes": GATEWAYS,
        "/control.v1.DataPlaneService/FetchArtifact": GATEWAYS,
        "/control.v1.DataPlaneService/ReportEvidence": GATEWAYS,
        "/control.v1.DataPlaneService/WatchFeatures": GATEWAYS,
    }
)
"""Which roles may make which call. A server with a method that has no row here does not start."""


class Token(NamedTuple):
    """A bearer token as it is kept: without its secret."""

    token_id: str
    actor: str
    roles: frozenset[Role]
    secret_sha256: str
    created_at_ns: int
    expires_at_ns: int
    revoked: bool


class Caller(NamedTuple):
    """Who makes a call."""

    actor: str
    roles: frozenset[Role]


FindToken = Callable[[str], Token | None]
"""Finds a token by its id."""

_CALLERS: Final[WeakKeyDictionary[grpc.ServicerContext, Caller]] = WeakKeyDictionary()


def caller(context: grpc.ServicerContext) -> Caller:
    """The authenticated caller of the call that a servicer is answering."""
    return _CALLERS[context]


def remember_caller(context: grpc.ServicerContext, who: Caller) -> None:
    """Notes the caller for as long as the call lives."""
    _CALLERS[context] = who


def new_secret() -> tuple[str, str]:
    """A new token's id, and the text that its holder sends."""
    token_id = secrets.token_hex(8)
    return token_id, f"ilk_{token_id}_{secrets.token_urlsafe(32)}"


def secret_hash(text: str) -> str:
    """What is kept of a token. Its secret has 256 random bits, so a plain hash cannot be guessed back."""
    return hashlib.sha256(text.encode()).hexdigest()


def bearer(metadata: Iterable[Any]) -> str:
    """The token that a call bears; empty where it bears none."""
    given = next((value for key, value in metadata if key == "authorization"), "")
    text = given.decode("ascii", "replace") if isinstance(given, bytes) else str(given)
    scheme, _, token = text.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def authenticate(text: str, find: FindToken, now_ns: int) -> Caller:
    """The caller that a token names, or a fault that says what is wrong with it."""
    if not text:
        raise _unauthenticated("the call has no bearer token: send `authorization: Bearer TOKEN`")
    _, _, rest = text.partition("_")
    token = find(rest.partition("_")[0])
    known = token.secret_sha256 if token else secret_hash("")
    # Compared even where there is no such token, so that the time taken tells nothing.
    if not hmac.compare_digest(known, secret_hash(text)) or token is None:
        raise _unauthenticated("the bearer token is not one of this control plane's")
    if token.revoked:
        raise _unauthenticated(f"the bearer token of {token.actor} was revoked")
    if token.expires_at_ns <= now_ns:
        raise _unauthenticated(f"the bearer token of {token.actor} has expired")
    return Caller(token.actor, token.roles)


def authorize(method: str, who: Caller) -> None:
    """Raises a fault unless one of the caller's roles may make the call."""
    allowed = POLICY[method]
    if not allowed & who.roles:
        raise Fault(
            Reason.ROLE_MISSING,
            f"{method.rpartition('/')[2]} needs one of the roles {', '.join(sorted(allowed))}; "
            f"{who.actor} has {', '.join(sorted(who.roles))}",
        )


def roles_json(roles: Iterable[Role]) -> str:
    """Roles as they are kept."""
    return json.dumps(sorted(roles))


def roles_from_json(text: str) -> frozenset[Role]:
    """Roles as they were kept."""
    return frozenset(Role(name) for name in json.loads(text))


def require_loopback(address: str) -> None:
    """Raises ValueError where plaintext, and tokens with it, would leave this host."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise ValueError(
            f"control.address = {address}: plaintext listening is refused off loopback; "
            "listen on 127.0.0.1 and put a TLS proxy in front"
        )


def _unauthenticated(message: str) -> Fault:
    return Fault(Reason.UNAUTHENTICATED, f"{message}; `interlock token create` makes one")
