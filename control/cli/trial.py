"""`interlock up MODEL.onnx`: a file is examined, registered by a drafted document, and answers on trial, unapproved."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from control.cli.people import SUBMITTER, People
from control.cli.problem import ExitCode, Problem
from control.places import read_token
from gateway.contract.errors import Reason

if TYPE_CHECKING:
    from control.cli.calls import Served
    from control.registry.rehearsal import Rehearsal
    from control.services import ControlPlane

CONFIRM_S: Final = 60.0
"""Seconds that the gateway gets to load the model."""


class Candidate(NamedTuple):
    """A file that would be admitted, with what was made up for it."""

    onnx: Path
    rehearsal: Rehearsal


class OnTrial(NamedTuple):
    """The version that answers."""

    model: str
    version: int
    approved: bool
    """Whether it has been approved and promoted since, and so is on trial no more."""
    served: Served


def prepare(onnx: Path, name: str) -> Candidate:
    """Examines the file before any service starts; raises Problem saying what keeps it from being served."""
    from control.registry.rehearsal import rehearse

    rehearsal = rehearse(onnx, name=name, person=SUBMITTER)
    if not rehearsal.ok:
        hint = f"; `interlock model check {onnx}` says what is checked"
        what = rehearsal.message.removeprefix(f"{onnx.name}: ")
        raise Problem("ADMISSION_REFUSED", f"{onnx.name}: {what}{hint}", ExitCode.REFUSED)
    return Candidate(onnx, rehearsal)


def put_on_trial(
    candidate: Candidate, data: Path, control_address: str, people: People, gateway_address: str
) -> OnTrial:
    """Registers the file as the submitter and has the operator put it on trial, unless it is the champion already."""
    from control.cli.calls import Served
    from control.places import operator_token_path
    from control.services import ControlPlane

    document, report = candidate.rehearsal.document, candidate.rehearsal.report
    assert document is not None
    assert report is not None
    with ControlPlane(control_address, read_token(people.submitter)) as submitter:
        version = _registered(submitter, candidate, data / "trial" / document.name)
    with ControlPlane(control_address, read_token(operator_token_path(data))) as operator:
        approved = operator.status(document.name).models[0].champion_version == version
        if not approved:
            answer = operator.try_version(document.name, version, wait_s=CONFIRM_S)
            if answer.pending:
                raise Problem(
                    "NOT_STARTED", f"the gateway did not load {document.name}/{version} in time", ExitCode.REFUSED
                )
    row = next(csv.DictReader(io.StringIO(candidate.rehearsal.golden)))
    return OnTrial(document.name, version, approved, Served(gateway_address, document, report.inputs, row))


def calls(found: OnTrial, flags: str) -> dict[str, str]:
    """The calls to try, by what they are made with."""
    from control.cli.calls import python_call, reflection_call, shell_call, triton_call

    return {
        "shell": shell_call(found.served, flags),
        "python": python_call(found.served),
        "tritonclient": triton_call(found.served),
        "grpcurl": reflection_call(found.served),
    }


def _registered(submitter: ControlPlane, candidate: Candidate, place: Path) -> int:
    """The number of the version with exactly this content: a new one, unless it is registered already.

    Document and golden rows are left in `place`, to be completed and registered by a person.
    """
    from control.connection import Refused
    from control.v1 import registry_pb2

    place.mkdir(parents=True, exist_ok=True)
    golden = place / "golden.csv"
    golden.write_text(candidate.rehearsal.golden)
    (place / "model.yaml").write_text(candidate.rehearsal.document_yaml)
    request = registry_pb2.RegisterVersionRequest(
        document_yaml=candidate.rehearsal.document_yaml,
        model_sha256=submitter.upload(candidate.onnx),
        golden_sha256=submitter.upload(golden),
    )
    try:
        return int(submitter.register(request).version.version)
    except Refused as refused:
        if refused.reason != Reason.VERSION_EXISTS:
            raise
        return int(refused.facts["version"])
