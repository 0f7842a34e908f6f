"""The catalogue of everything that can be wrong, and the exception that carries an entry of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

DOMAIN: Final = "interlock"


class Code(IntEnum):
    """The gRPC status codes that we use, by their numbers on the wire. UNKNOWN is not among them."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Reason(StrEnum):
    """What went wrong, as ErrorInfo names it."""

    # Scoring
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    BATCH_SIZE = "BATCH_SIZE"
    MODEL_UNKNOWN = "MODEL_UNKNOWN"
    VERSION_NOT_SERVED = "VERSION_NOT_SERVED"
    VERSION_INVALID = "VERSION_INVALID"
    MODEL_STOPPED = "MODEL_STOPPED"
    ENTITY_MISMATCH = "ENTITY_MISMATCH"
    INPUT_MISMATCH = "INPUT_MISMATCH"
    INPUT_NOT_FINITE = "INPUT_NOT_FINITE"
    FEATURE_MISSING = "FEATURE_MISSING"
    FEATURE_STALE = "FEATURE_STALE"
    FEATURE_DAMAGED = "FEATURE_DAMAGED"
    MODEL_FAILED = "MODEL_FAILED"
    SCORE_NOT_FINITE = "SCORE_NOT_FINITE"
    DEADLINE_EXPIRED = "DEADLINE_EXPIRED"
    OVERLOADED = "OVERLOADED"
    NOT_READY = "NOT_READY"
    DRAINING = "DRAINING"
    METHOD_UNKNOWN = "METHOD_UNKNOWN"
    LOADING_GOVERNED = "LOADING_GOVERNED"
    INTERNAL = "INTERNAL"
    # Administration
    UNAUTHENTICATED = "UNAUTHENTICATED"
    ROLE_MISSING = "ROLE_MISSING"
    IDEMPOTENCY_KEY_MISSING = "IDEMPOTENCY_KEY_MISSING"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    ARGUMENT_INVALID = "ARGUMENT_INVALID"
    DOCUMENT_INVALID = "DOCUMENT_INVALID"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    ARTIFACT_UNKNOWN = "ARTIFACT_UNKNOWN"
    ARTIFACT_TOO_LARGE = "ARTIFACT_TOO_LARGE"
    ADMISSION_REFUSED = "ADMISSION_REFUSED"
    VERSION_UNKNOWN = "VERSION_UNKNOWN"
    VERSION_EXISTS = "VERSION_EXISTS"
    VIEW_UNKNOWN = "VIEW_UNKNOWN"
    VIEW_EMPTY = "VIEW_EMPTY"
    TOKEN_UNKNOWN = "TOKEN_UNKNOWN"  # noqa: S105 - the name of a reason, not a secret
    TOKEN_SHOWN = "TOKEN_SHOWN"  # noqa: S105 - likewise
    APPROVAL_OWN = "APPROVAL_OWN"
    APPROVAL_MISSING = "APPROVAL_MISSING"
    TRANSITION_REFUSED = "TRANSITION_REFUSED"
    VERSION_PINNED = "VERSION_PINNED"
    HISTORY_MISMATCH = "HISTORY_MISMATCH"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    # Outcomes
    OUTCOMES_NOT_KEPT = "OUTCOMES_NOT_KEPT"
    TRIAL_REFUSED = "TRIAL_REFUSED"
    ROLLOUT_REFUSED = "ROLLOUT_REFUSED"
    OUTPUT_REJECTED = "OUTPUT_REJECTED"
    MODEL_TOO_SLOW = "MODEL_TOO_SLOW"
    ROLLOUT_UNKNOWN = "ROLLOUT_UNKNOWN"


class Entry(NamedTuple):
    """One line of the catalogue: the status code, and what a caller should make of it."""

    code: Code
    meaning: str


CATALOGUE: Final[Mapping[Reason, Entry]] = MappingProxyType(
    {
        Reason.MALFORMED_REQUEST: Entry(
            Code.INVALID_ARGUMENT,
            "The bytes are not the message that the method takes. Compile the protos of this release and send that message.",
        ),
        Reason.MESSAGE_TOO_LARGE: Entry(
            Code.RESOURCE_EXHAUSTED,
            "The message is larger than the server accepts (gateway.max_message_bytes, control.max_message_bytes). Split the batch; repeating the call as it is will not help.",
        ),
        Reason.BATCH_SIZE: Entry(
            Code.INVALID_ARGUMENT,
            "A batch must have at least one row and at most as many as the message says. Split it, or send rows.",
        ),
        Reason.MODEL_UNKNOWN: Entry(
            Code.NOT_FOUND,
            "No model of that name is served here. `interlock model list` says which are registered, `interlock status` which are served.",
        ),
        Reason.VERSION_NOT_SERVED: Entry(
            Code.NOT_FOUND,
            "The model is served, but not in the version that the call names. Leave the version at 0 to get whichever the route names.",
        ),
        Reason.VERSION_INVALID: Entry(
            Code.INVALID_ARGUMENT,
            "A version is a positive number, or the label `champion` or `canary`. Leave it out to get whichever the route names.",
        ),
        Reason.MODEL_STOPPED: Entry(
            Code.FAILED_PRECONDITION,
            "An operator has stopped the model (`interlock model stop`), and its document declares no `fallback` that could be answered instead. Do without the score until `interlock model start`; repeating the call does not help.",
        ),
        Reason.ENTITY_MISMATCH: Entry(
            Code.INVALID_ARGUMENT,
            "The call must give one non-empty key for each entity that the model declares, and no other.",
        ),
        Reason.INPUT_MISMATCH: Entry(
            Code.INVALID_ARGUMENT,
            "A request-time input is missing, unknown, of another type than the model declares, or its column has another length than the keys.",
        ),
        Reason.INPUT_NOT_FINITE: Entry(
            Code.INVALID_ARGUMENT,
            "A request-time input is NaN or infinite, and the model's document refuses that (`nan: reject`).",
        ),
        Reason.FEATURE_MISSING: Entry(
            Code.FAILED_PRECONDITION,
            "A stored feature that the model must have is missing for this entity (`missing: reject`). Materialize it, or score without this model.",
        ),
        Reason.FEATURE_STALE: Entry(
            Code.FAILED_PRECONDITION,
            "A stored feature is older than its time-to-live and must not be used (`missing: reject`). Materialize newer rows.",
        ),
        Reason.FEATURE_DAMAGED: Entry(
            Code.INTERNAL,
            "The stored row of this entity fails its checksum, so it is not used. The operator must let the gateway rebuild its online store.",
        ),
        Reason.MODEL_FAILED: Entry(
            Code.INTERNAL,
            "The model raised an error on this row. The call may be repeated, but will likely fail again; the operator sees the row in the metrics.",
        ),
        Reason.SCORE_NOT_FINITE: Entry(
            Code.INTERNAL, "The model answered NaN or infinity for this row; such a score is never sent."
        ),
        Reason.DEADLINE_EXPIRED: Entry(
            Code.DEADLINE_EXCEEDED, "The call's deadline passed before its turn came. Nothing was scored."
        ),
        Reason.OVERLOADED: Entry(
            Code.RESOURCE_EXHAUSTED,
            "Too many calls are in flight. Wait as long as the retry hint says, then repeat; do not repeat at once.",
        ),
        Reason.NOT_READY: Entry(Code.UNAVAILABLE, "The gateway has not loaded its models yet. Safe to repeat."),
        Reason.DRAINING: Entry(Code.UNAVAILABLE, "The gateway is shutting down. Safe to repeat on another connection."),
        Reason.METHOD_UNKNOWN: Entry(
            Code.UNIMPLEMENTED, "The server has no such method. Compare the protos of client and server."
        ),
        Reason.LOADING_GOVERNED: Entry(
            Code.UNIMPLEMENTED,
            "A client asked the gateway to load or unload a model. What is loaded follows the route table, which the control plane derives from approvals: `interlock model promote` and `interlock model retire` change it.",
        ),
        Reason.INTERNAL: Entry(
            Code.INTERNAL,
            "A fault of ours. The message has an error id, and the server's log has the cause under that id.",
        ),
        Reason.UNAUTHENTICATED: Entry(
            Code.UNAUTHENTICATED,
            "The call has no bearer token, or one that is unknown, expired or revoked. `interlock token create` makes one.",
        ),
        Reason.ROLE_MISSING: Entry(
            Code.PERMISSION_DENIED,
            "The token is valid, but none of its roles may make this call. The message names the roles that may.",
        ),
        Reason.IDEMPOTENCY_KEY_MISSING: Entry(
            Code.INVALID_ARGUMENT,
            "Every change takes an idempotency key of 1 to 128 characters, so that it can be repeated safely.",
        ),
        Reason.IDEMPOTENCY_KEY_REUSED: Entry(
            Code.ALREADY_EXISTS,
            "The idempotency key was used before for a call with other content. Use a new key for a new change.",
        ),
        Reason.ARGUMENT_INVALID: Entry(
            Code.INVALID_ARGUMENT, "A field of the request is wrong; the message names it and says what it takes."
        ),
        Reason.DOCUMENT_INVALID: Entry(
            Code.INVALID_ARGUMENT,
            "A YAML document is broken or breaks a rule; the message names the key and the line where it can.",
        ),
        Reason.DIGEST_MISMATCH: Entry(
            Code.INVALID_ARGUMENT,
            "The bytes received are not those that the digest or size declares. Nothing was kept; send them again.",
        ),
        Reason.ARTIFACT_UNKNOWN: Entry(Code.NOT_FOUND, "No artifact with that digest is stored. Upload it first."),
        Reason.ARTIFACT_TOO_LARGE: Entry(
            Code.RESOURCE_EXHAUSTED,
            "The artifact is larger than the control plane accepts (control.max_artifact_bytes).",
        ),
        Reason.ADMISSION_REFUSED: Entry(
            Code.INVALID_ARGUMENT,
            "The model did not pass admission: it is not a safe, self-contained ONNX file that gives its golden rows' results. The message says which check failed and what to do.",
        ),
        Reason.VERSION_UNKNOWN: Entry(
            Code.NOT_FOUND, "No such model or version is registered. `interlock model list` says which are."
        ),
        Reason.VERSION_EXISTS: Entry(
            Code.ALREADY_EXISTS,
            "A version with exactly this content is registered already; the message names it. Use that one, or register what differs.",
        ),
        Reason.VIEW_UNKNOWN: Entry(
            Code.NOT_FOUND, "No feature view of that name or hash is stored. `interlock features apply` stores one."
        ),
        Reason.VIEW_EMPTY: Entry(
            Code.FAILED_PRECONDITION,
            "The version pins a feature view that was never materialized, so every entity would be missing. `interlock features materialize` fills it.",
        ),
        Reason.TOKEN_UNKNOWN: Entry(Code.NOT_FOUND, "No token has that id. `interlock token list` shows them."),
        Reason.TOKEN_SHOWN: Entry(
            Code.ALREADY_EXISTS,
            "The idempotency key made a token before, and a token's secret is shown once. The facts name the token: revoke it if its secret was lost, and create another with a new key.",
        ),
        Reason.APPROVAL_OWN: Entry(
            Code.PERMISSION_DENIED, "Who submitted a version cannot decide on it. Somebody else must."
        ),
        Reason.APPROVAL_MISSING: Entry(
            Code.FAILED_PRECONDITION,
            "The version has no approval for exactly this digest. `interlock approval approve` gives one.",
        ),
        Reason.TRIAL_REFUSED: Entry(
            Code.FAILED_PRECONDITION,
            "A version that nobody approved may answer only where the control plane was started for trial (`interlock up MODEL.onnx`, control.allow_unapproved), for a model without a champion. Everywhere else it is approved and promoted.",
        ),
        Reason.ROLLOUT_REFUSED: Entry(
            Code.FAILED_PRECONDITION,
            "The rollout cannot start, or there is none to act on: another one of the model runs, the model has no champion to compare with, or the two versions do not answer the same calls. The message says which, and what to do.",
        ),
        Reason.ROLLOUT_UNKNOWN: Entry(
            Code.NOT_FOUND,
            "No rollout has that number, or no version of that model was ever tried. `interlock rollout list --ended` shows them all, the newest first.",
        ),
        Reason.MODEL_TOO_SLOW: Entry(
            Code.DEADLINE_EXCEEDED,
            "A version on trial took longer than the call could wait, less what the control needs, and was ended. Callers do not see it: the control answered.",
        ),
        Reason.OUTPUT_REJECTED: Entry(
            Code.INTERNAL,
            "The version ran, but what it gave is not what its document describes, so that no score can be read from it. It is the version's fault; the other rows of the call are not affected.",
        ),
        Reason.TRANSITION_REFUSED: Entry(
            Code.FAILED_PRECONDITION,
            "The version's stage does not allow this. The message names the stage and what it allows.",
        ),
        Reason.VERSION_PINNED: Entry(
            Code.FAILED_PRECONDITION,
            "Callers asked for exactly this version within the last 24 hours, so it is not retired. The message says when they last did, at which gateways, and from when on it can be. Have them leave `version` at 0.",
        ),
        Reason.HISTORY_MISMATCH: Entry(
            Code.FAILED_PRECONDITION,
            "The gateway's data belongs to another history of the control plane, such as before a backup was restored. An operator must decide which is right.",
        ),
        Reason.STORE_UNAVAILABLE: Entry(
            Code.UNAVAILABLE,
            "The control plane's store cannot be written now (disk full or busy). Nothing was changed; safe to repeat with the same idempotency key.",
        ),
        Reason.OUTCOMES_NOT_KEPT: Entry(
            Code.RESOURCE_EXHAUSTED,
            "The gateway's host cannot keep outcomes now: its disk is full or failing, or as many as gateway.outcomes_bytes allows wait for the recorder. Nothing of the call counts as recorded; repeat it later with the same ids. Scores are not affected.",
        ),
    }
)


class Fault(Exception):  # noqa: N818 - not every fault is an error of ours
    """An expected failure: a reason of the catalogue, a message for people, and facts for programs.

    The message says what was wrong and what to do; it never holds a path, SQL or a traceback.
    """

    def __init__(self, reason: Reason, message: str, **facts: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.facts = facts

    @property
    def code(self) -> Code:
        """The gRPC status code of the reason."""
        return CATALOGUE[self.reason].code
