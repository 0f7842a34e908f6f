"""The story: each step does one thing that a team does with a model, and returns the figure to show for it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import pandas as pd

from control.cli.feature_rows import Layout, feature_chunks
from control.connection import Refused
from control.demo import churn
from control.demo.callers import Reply, Target, score_batch, score_each
from control.demo.candidate import Candidate, as_yaml, train, write
from control.demo.checks import largest_difference, require_version
from control.demo.recipes import RECIPES, Planted
from control.demo.services import Services, until
from control.demo.steps import Report
from control.demo.trail import Standing, entry, standings
from control.files import lineage
from control.services import ControlPlane
from control.training.data import Split
from control.training.lineage import code_commit, environment_lock
from control.v1 import features_pb2, registry_pb2
from gateway.contract.schema import FeatureView

TOLERANCE: Final = 1e-5
CONFIRM_S: Final = 60.0
"""Seconds that a gateway gets to load a version and confirm it."""
WORKERS: Final = 2
MOST_ENTRIES: Final = 1_000
"""More audit entries than the story makes of its model."""
BATCH_ROWS: Final = 250
ROWS: Final = "subscribers.csv"
MADE_FROM: Final = {"training_data": "train.csv", "environment_lock": "environment.lock"}
PEOPLE: Final = {
    "dana": ("data_scientist", "approver"),
    "erin": ("approver",),
    "omar": ("ml_engineer", "auditor"),
}
"""Dana trains and may approve, but not her own; Erin approves; Omar operates."""


class Story:
    """What the steps share: the data, the services, the people, and what came of each step."""

    def __init__(self, data: Path, services: Services, report: Report) -> None:
        self.data = data
        self.services = services
        self.report = report
        self.people: dict[str, ControlPlane] = {}
        self.views: dict[str, FeatureView] = {}
        self.candidates: dict[int, Candidate] = {}
        self.control = ""
        self.target = Target("", churn.MODEL, churn.ENTITY)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All subscribers."""
        return churn.load(churn.data_file())

    @cached_property
    def parts(self) -> Split:
        """Those to train on, and those held out."""
        return churn.parts(self.frame)

    @property
    def held_out(self) -> list[str]:
        """The subscribers that no version was trained on."""
        return [str(key) for key in self.parts.held_out.index]

    @cached_property
    def truth(self) -> dict[str, int]:
        """Which of the held-out subscribers left: 1, and 0 for who stayed."""
        return {str(key): int(left) for key, left in self.parts.held_out[churn.TARGET].items()}

    @property
    def expected(self) -> dict[int, dict[str, float]]:
        """What scikit-learn says in float64, by version and subscriber."""
        return {number: candidate.expected for number, candidate in self.candidates.items()}

    # Data and models

    def read_data(self) -> str:
        """Writes down what the versions are made from."""
        training = self.data / "training"
        training.mkdir()
        self.parts.train.to_csv(training / "train.csv", lineterminator="\n")
        (training / "environment.lock").write_text(environment_lock())
        self.frame.drop(columns=churn.TARGET).to_csv(self.data / ROWS, lineterminator="\n")
        train, held_out = len(self.parts.train), len(self.parts.held_out)
        return f"{train:,} to train on, {held_out:,} held out; ids and event times derived, seeded"

    def train(self, number: int) -> str:
        """Trains a version by its recipe and writes its files."""
        recipe = RECIPES[number]
        for name in recipe.views:
            self.views.setdefault(name, churn.view_definition(name, self.parts.train))
        chosen = [self.views[name] for name in recipe.views]
        taken = self.candidates.get(recipe.trained_by)
        pipeline = train(self.parts, recipe) if taken is None else taken.pipeline
        directory = self.data / "training" / f"v{number}"
        self.candidates[number] = found = write(pipeline, self.parts, recipe, (chosen, "dana"), directory)
        size, features, trees = found.model.stat().st_size / 1e3, len(churn.features(recipe.views)), recipe.chosen.trees
        return f"{features} features, {trees} trees, ROC AUC {found.metrics['roc_auc']:.3f}, ONNX {size:.0f} kB"

    def plant(self, planted: Planted) -> str:
        """Trains, registers and has approved a version with a mistake that nobody sees in its files."""
        self.train(planted.version)
        self.register(planted.version)
        self.approve(planted.version)
        return f"{planted.mistake}; registered and approved like any other"

    # Services and people

    def start_control(self) -> str:
        """Starts the control plane."""
        place = self.services.start_control()
        self.control = place.address
        return f"process {place.pid}, on {place.address}"

    def give_tokens(self) -> str:
        """Gives everybody a token; the operator's was made at the first start."""
        directory = self.data / "tokens"
        directory.mkdir(mode=0o700)
        operator = (self.data / "control" / "operator.token").read_text().strip()
        with ControlPlane(self.control, operator) as control:
            for actor, roles in PEOPLE.items():
                token = control.create_token(actor, roles).token
                (directory / f"{actor}.token").write_text(token + "\n")
                self.people[actor] = ControlPlane(self.control, token)
        return "; ".join(f"{actor}: {', '.join(roles)}" for actor, roles in PEOPLE.items())

    def start_gateway(self) -> str:
        """Starts a gateway, which connects to the control plane."""
        place = self.services.start_gateway(self.control, WORKERS)
        self.target = self.target._replace(address=place.address)
        until(lambda: self.people["omar"].status().gateways or None, CONFIRM_S, "the gateway to report")
        return f"process {place.pid} with {WORKERS} workers, callers on {place.address}"

    # A version's way to its callers

    def define_features(self, views: Sequence[str]) -> str:
        """Applies view definitions; the documents pin them by the hash that this returns."""
        (self.data / "views").mkdir(exist_ok=True)
        for name in views:
            text = as_yaml(self.views[name])
            (self.data / "views" / f"{name}.yaml").write_text(text)
            applied = self.people["dana"].apply_view(text).view.hash
            if applied != self.views[name].digest():
                raise ValueError(f"view {name} has hash {applied} there and {self.views[name].digest()} here")
        return ", ".join(f"{name} {self.views[name].digest()[:8]}" for name in views)

    def materialize(self, views: Sequence[str]) -> str:
        """Appends everybody's rows to the feature log."""
        began, rows = time.monotonic(), 0
        for name in views:
            view = self.views[name]
            chunks = partial(_chunks, self.data / ROWS, view)
            answers = self.people["omar"].materialize(view.digest(), chunks, len(self.frame))
            rows += sum(answer.rows for answer in answers)
        if rows != len(views) * len(self.frame):
            raise ValueError(f"{rows:,} rows were taken of {len(views) * len(self.frame):,}")
        return f"{rows:,} rows, {rows / (time.monotonic() - began):,.0f} a second"

    def register(self, number: int) -> str:
        """Uploads the files and registers the version with its lineage."""
        control, found = self.people["dana"], self.candidates[number]
        made_from = {"source_data": churn.data_file()}
        made_from |= {name: self.data / "training" / file for name, file in MADE_FROM.items()}
        request = registry_pb2.RegisterVersionRequest(
            document_yaml=found.document.read_text(),
            model_sha256=control.upload(found.model),
            golden_sha256=control.upload(found.golden),
            lineage=lineage(made_from),
            code_commit=code_commit(Path(__file__)),
            hyperparameters_json=json.dumps(found.recipe.chosen._asdict()),
            metrics_json=json.dumps(found.metrics),
        )
        version = control.register(request).version
        if version.version != number:
            raise ValueError(f"it was registered as version {version.version}")
        return f"{version.model}/{version.version} by {version.submitted_by}, digest {version.digest[:12]}"

    def approve(self, number: int) -> str:
        """Has the submitter try to approve, which is refused, and then a second person."""
        try:
            self.people["dana"].approve(churn.MODEL, number)
        except Refused as refused:
            if refused.reason != "APPROVAL_OWN":
                raise
        else:
            raise ValueError("the submitter approved a version of her own")
        digest = self.people["erin"].version(churn.MODEL, number).version.digest
        given = self.people["erin"].approve(churn.MODEL, number, "metrics and lineage read", digest)
        return f"by {given.decided_by}, bound to the digest (dana's own was refused: APPROVAL_OWN)"

    def promote(self, number: int) -> str:
        """Makes the version the champion, and waits until the gateway confirms it in all of its workers."""
        answer = self.people["omar"].promote(churn.MODEL, number, CONFIRM_S)
        if answer.pending or not answer.confirmed:
            raise TimeoutError(f"revision {answer.revision} is not confirmed by {', '.join(answer.pending) or 'any'}")
        return f"revision {answer.revision}, in force in all workers"

    # Calls

    def score_one_by_one(self, number: int) -> str:
        """Scores every held-out subscriber with a call each, and compares with scikit-learn."""
        began = time.monotonic()
        replies = score_each(self.target, self.held_out)
        rate = len(replies) / (time.monotonic() - began)
        difference = self.compare(replies)
        require_version(replies, number, self.standings())
        p50_ms = statistics.median(reply.ended_ns - reply.began_ns for reply in replies) / 1e6
        self.report.rows_scored = max(self.report.rows_scored, len(replies))
        return f"{len(replies):,} calls, p50 {p50_ms:.2f} ms, {rate:,.0f}/s, at most {difference:.1e} from scikit-learn"

    def score_in_batches(self, number: int) -> str:
        """Scores them again, many to a call."""
        began, replies = time.monotonic(), []
        for start in range(0, len(self.held_out), BATCH_ROWS):
            keys = self.held_out[start : start + BATCH_ROWS]
            got = score_batch(self.target, keys)
            if got.errors:
                raise ValueError(f"row {got.errors[0].row}: {got.errors[0].message}")
            columns = zip(keys, got.versions, got.scores, got.defaulted, strict=True)
            replies += [Reply(key, 0, 0, version, got.revision, score, gone) for key, version, score, gone in columns]
        rate = len(replies) / (time.monotonic() - began)
        difference = self.compare(replies)
        require_version(replies, number, self.standings())
        return f"{len(replies):,} rows, {BATCH_ROWS} a call, {rate:,.0f}/s, at most {difference:.1e} from scikit-learn"

    def verify_audit(self) -> str:
        """Has the audit trail recomputed."""
        found = self.people["omar"].verify_audit()
        if not found.ok:
            raise ValueError(f"entry {found.first_bad}: {found.problem}")
        return f"{found.entries} entries, unbroken, head {found.head_hash[:12]}"

    def stop(self) -> str:
        """Ends the services; what they keep stays in the directory."""
        for control in self.people.values():
            control.close()
        if problems := self.services.stop():
            raise ValueError("; ".join(problems))
        return "drained, ended with code 0, no process left"

    def standings(self) -> list[Standing]:
        """Who answers under which revision, by the audit trail."""
        entries = self.people["omar"].audit(churn.MODEL, MOST_ENTRIES)
        return standings(entry(one.sequence, one.action, one.subject, one.details_json) for one in entries)

    def is_confirmed(self) -> bool:
        """Whether the newest revision is in force in all workers."""
        status = self.people["omar"].status(churn.MODEL)
        return bool(status.gateways) and all(one.revision >= status.revision for one in status.gateways)

    def compare(self, replies: Sequence[Reply]) -> float:
        """How far scores lie from scikit-learn's; raises ValueError where that is too far."""
        difference = largest_difference(replies, self.expected)
        self.report.max_abs_diff = max(self.report.max_abs_diff, difference)
        if not difference <= TOLERANCE:
            raise ValueError(f"a score lies {difference:.2e} from scikit-learn's; at most {TOLERANCE:.0e} is allowed")
        return difference


def _chunks(path: Path, view: FeatureView) -> Iterator[features_pb2.FeatureRows]:
    with path.open(newline="") as file:
        yield from feature_chunks(file, view, Layout(churn.ENTITY, "event_time"), path.name)
