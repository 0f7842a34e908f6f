"""The route table as the control plane sends it and as it lies on disk, read into plain values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError
from pydantic import ValidationError

from control.v1 import data_plane_pb2 as pb
from gateway.contract.document import ModelDocument, document_from_json
from gateway.contract.schema import FeatureView, explain, view_from_json

FORMAT: Final = 1


class ServedVersion(NamedTuple):
    """A version, as a worker needs it to load and serve it."""

    model: str
    version: int
    digest: str
    """SHA-256 of its manifest: its identity."""
    model_sha256: str
    golden_sha256: str
    document: ModelDocument
    views: Mapping[str, FeatureView]
    """The pinned views, by name."""
    feature_sequence: int
    """The online store must have applied this feature batch before the version is routable."""
    unapproved: bool = False
    """Whether it is on trial: every reply says so."""
    champion_revision: int = 0
    """The revision by which it last became champion."""


class Canary(NamedTuple):
    """A challenger that answers a share of the traffic, and the version that it is compared with."""

    rollout_id: int
    challenger: ServedVersion
    control: ServedVersion
    weight_bps: int
    step: int
    salt: bytes
    per_request: bool
    """Whether each request is assigned by a draw of its own, and not by its entity."""
    guards: Mapping[str, Guard]
    """What a gateway may withdraw the challenger by, by metric."""
    judges: frozenset[str]
    """Ids of the gateways that may."""
    score_edges: tuple[float, ...] = ()
    """The inner deciles of the control's scores, frozen when the canary began."""


class Guard(NamedTuple):
    """A test of one metric."""

    alpha: float
    """The gateway's own share of the risk of a false rollback."""
    rho: float
    """The ratio of bad events, challenger over control, that is tolerated."""
    two_sided: bool
    """Whether a rate that falls is as bad as one that rises."""
    sample_bps: int
    """The share of the units, chosen by their hash, that count."""


class Shadow(NamedTuple):
    """A version that scores a copy of the traffic."""

    rollout_id: int
    version: ServedVersion
    mirrored_bps: int
    latency_slack: float
    """The factor between the quantiles of the champion's latencies and what counts as slow."""
    slo_ns: int
    """Beyond how many nanoseconds a run is slow in any case; 0 where no objective was given."""


class RouteTable(NamedTuple):
    """Who answers for each model."""

    history_id: str
    revision: int
    champions: Mapping[str, ServedVersion]
    kept: Mapping[str, tuple[ServedVersion, ...]] = MappingProxyType({})
    """Former champions, the last one first: on disk, to step back to, and not loaded."""
    canaries: Mapping[str, Canary] = MappingProxyType({})
    shadows: Mapping[str, tuple[Shadow, ...]] = MappingProxyType({})
    stopped: Mapping[str, str] = MappingProxyType({})
    """Why nobody answers, for models that are stopped."""
    stepped_back: frozenset[str] = frozenset()
    """Models whose champion is withdrawn on this gateway, so that a former one answers; of no table that was sent."""


def parse_routes(raw: bytes) -> RouteTable:
    """Reads a serialized table; raises ValueError saying what is wrong with it."""
    try:
        message = pb.RouteTable.FromString(raw)
    except DecodeError:
        raise ValueError("the bytes are no route table") from None
    if message.format != FORMAT:
        raise ValueError(f"the route table has format {message.format}; this gateway reads {FORMAT}")
    try:
        views = {view.hash: view_from_json(view.definition_json) for view in message.views}
        champions = {route.model: _served(route.model, route.champion, views) for route in message.models}
        kept = {route.model: tuple(_served(route.model, one, views) for one in route.kept) for route in message.models}
        canaries = {
            route.model: _canary(route.model, route.canary, views)
            for route in message.models
            if route.HasField("canary")
        }
        shadows = {
            route.model: tuple(_shadow(route.model, shadow, views) for shadow in route.shadows)
            for route in message.models
            if route.shadows
        }
        stopped = {route.model: route.stopped_because for route in message.models if route.HasField("stopped_because")}
    except ValidationError as error:
        raise ValueError(
            f"the route table holds a definition that this gateway cannot read: {explain(error)}"
        ) from None
    if wrong := [name for name, view in views.items() if view.digest() != name]:
        raise ValueError(f"view {wrong[0]} is not the definition that its hash names")
    return RouteTable(message.history_id, message.revision, champions, kept, canaries, shadows, stopped)


def _canary(model: str, canary: pb.Canary, views: Mapping[str, FeatureView]) -> Canary:
    return Canary(
        rollout_id=canary.rollout_id,
        challenger=_served(model, canary.challenger, views),
        control=_served(model, canary.control, views),
        weight_bps=canary.weight_bps,
        step=canary.step,
        salt=canary.salt,
        per_request=canary.per_request,
        guards={
            guard.metric: Guard(guard.alpha, guard.rho, guard.two_sided, guard.sample_bps) for guard in canary.guards
        },
        judges=frozenset(canary.judges),
        score_edges=tuple(canary.score_edges),
    )


def _shadow(model: str, shadow: pb.Shadow, views: Mapping[str, FeatureView]) -> Shadow:
    version = _served(model, shadow.version, views)
    return Shadow(shadow.rollout_id, version, shadow.mirrored_bps, shadow.latency_slack, shadow.slo_ns)


def _served(model: str, served: pb.ServedVersion, views: Mapping[str, FeatureView]) -> ServedVersion:
    document = document_from_json(served.document_json)
    if absent := [pinned for pinned in document.views.values() if pinned not in views]:
        raise ValueError(f"the route table lacks view {absent[0]} that {model}/{served.version} pins")
    return ServedVersion(
        model=model,
        version=served.version,
        digest=served.digest,
        model_sha256=served.model_sha256,
        golden_sha256=served.golden_sha256,
        document=document,
        views={name: views[pinned] for name, pinned in document.views.items()},
        feature_sequence=served.feature_sequence,
        unapproved=served.unapproved,
        champion_revision=served.champion_revision,
    )
