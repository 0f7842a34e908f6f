"""Views and the feature log, over a real server: what is acknowledged is durable, in order, and as it was sent."""

from __future__ import annotations

import random
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control.features.chunk import Chunk, Column, check_chunk
from control.features.log import Batch, FeatureLog
from control.features.views import apply_view
from control.governance.records import whole_trail
from control.registry.document import read_view
from control.security import Role
from control.server import ControlPlane
from control.store.audit import verify
from control.store.store import Store, read_head
from control.v1 import features_pb2 as pb
from gateway.contract.errors import Fault
from gateway.contract.row import RowCodec
from gateway.contract.schema import FeatureView
from tests.control.planes import Client, Process, Refusal, client_for, key, refusal, running, token_for
from tests.support import STRESS

VIEW_YAML: Final = """\
name: usage
entity: subscriber
features:
  - {name: minutes, type: float32}
  - {name: state, type: string, default: ""}
  - {name: calls, type: int64, default: 0}
  - {name: plan, type: bool, default: false}
"""
VIEW: Final = read_view(VIEW_YAML)
NOW_NS: Final = 1_700_000_000_000_000_000


class Plane(NamedTuple):
    """A running control plane and somebody who may write features."""

    plane: ControlPlane
    client: Client


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """One control plane for the module, with the view applied."""
    with running(tmp_path_factory.mktemp("features")) as plane:
        client = client_for(plane, "ana", Role.ML_ENGINEER, Role.FEATURE_WRITER)
        client.call(client.features.ApplyView, pb.ApplyViewRequest(idempotency_key=key(), definition_yaml=VIEW_YAML))
        yield Plane(plane, client)


def rows_of(keys: Iterable[str] = ("a", "b"), **changes: Any) -> pb.FeatureRows:
    """Rows of the view; a change to a column's message replaces it, one to None leaves it out."""
    names = list(keys)
    n = len(names)
    columns = {
        "minutes": pb.FeatureColumn(name="minutes", numbers=[1.5] * n),
        "state": pb.FeatureColumn(name="state", texts=["TX"] * n),
        "calls": pb.FeatureColumn(name="calls", integers=[3] * n),
        "plan": pb.FeatureColumn(name="plan", flags=[True] * n),
    } | {name: value for name, value in changes.items() if name != "times"}
    times = changes.get("times", [NOW_NS] * n)
    return pb.FeatureRows(keys=names, event_times_ns=times, columns=[c for c in columns.values() if c is not None])


def stream(*chunks: pb.FeatureRows, **header: str) -> list[pb.MaterializeRequest]:
    """The messages of a materialization."""
    said = {"idempotency_key": key(), "view": "usage", **header}
    first = pb.MaterializeRequest(header=pb.MaterializeHeader(**said))
    return [first, *(pb.MaterializeRequest(rows=rows) for rows in chunks)]


def materialize(client: Client, messages: list[pb.MaterializeRequest]) -> list[pb.MaterializeResponse]:
    """All answers of a materialization."""
    return list(client.features.Materialize(iter(messages), metadata=client.metadata, timeout=30))


def refused(client: Client, messages: list[pb.MaterializeRequest]) -> Refusal:
    """How a materialization is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        materialize(client, messages)
    return refusal(caught.value)


def log_of(served: Plane) -> FeatureLog:
    """The log, read anew from the store."""
    return FeatureLog(served.plane.store)


def decoded(view: FeatureView, batch: Batch, words: dict[str, list[str]]) -> list[tuple[Any, ...]]:
    """The rows of a batch as people read them, null as None."""
    codec = RowCodec(view)
    raw = [batch.rows[at : at + codec.stride] for at in range(0, len(batch.rows), codec.stride)]
    found = []
    for entity, row in zip(batch.keys, codec.decode(raw).rows, strict=True):
        values = []
        for feature in view.features:
            place = codec.places[feature.name]
            value = row[place.block][place.column].item()
            if int(row["nulls"][0]) >> place.bit & 1:
                value = None
            elif place.block == "code":
                value = words[feature.name][value]
            values.append(bool(value) if place.block == "flag" and value is not None else value)
        found.append((entity, int(row["event_ns"]), *values))
    return found


def test_a_view_is_applied_once_whatever_its_spelling(served: Plane) -> None:
    """The hash is of the content: another order of keys and another comment are the same view."""
    again = "# the same\n" + VIEW_YAML.replace("{name: minutes, type: float32}", "{type: float32, name: minutes}")
    request = pb.ApplyViewRequest(idempotency_key=key(), definition_yaml=again)
    answer = served.client.call(served.client.features.ApplyView, request)
    assert not answer.created
    assert answer.view.hash == VIEW.digest()
    assert answer.view.applied_by == "ana"


def test_a_changed_view_stands_beside_the_old_one(served: Plane) -> None:
    """Both are listed, the newest first."""
    for default in ("1", "2"):
        text = f"name: other\nentity: subscriber\nfeatures: [{{name: a, type: int64, default: {default}}}]\n"
        request = pb.ApplyViewRequest(idempotency_key=key(), definition_yaml=text)
        assert served.client.call(served.client.features.ApplyView, request).created
    listed = served.client.call(served.client.features.ListViews, pb.ListViewsRequest(name="other")).views
    assert [read_view(view.definition_json).features[0].default for view in listed] == [2, 1]


def test_a_broken_view_is_refused_with_its_key(served: Plane) -> None:
    """And line."""
    request = pb.ApplyViewRequest(idempotency_key=key(), definition_yaml=VIEW_YAML.replace("int64", "int63"))
    answer = served.client.refused(served.client.features.ApplyView, request)
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "DOCUMENT_INVALID")
    assert answer.facts == {"key": "features.2.type", "line": "6"}


def test_acknowledged_rows_are_in_the_log_as_they_were_sent(served: Plane) -> None:
    """Keys, times, values and nulls; each chunk has the next number."""
    state = pb.FeatureColumn(name="state", texts=["NY", "", "NY"], nulls=[1])
    first = rows_of(("x", "y", "z"), state=state, times=[NOW_NS, NOW_NS + 1, NOW_NS + 2])
    answers = materialize(served.client, stream(first, rows_of(("x",))))
    assert [answer.rows for answer in answers] == [3, 1]
    assert answers[1].sequence == answers[0].sequence + 1
    batches = list(log_of(served).read(answers[0].sequence))
    words = dictionary(log_of(served))
    assert decoded(VIEW, batches[0], words) == [
        ("x", NOW_NS, 1.5, "NY", 3, True),
        ("y", NOW_NS + 1, 1.5, None, 3, True),
        ("z", NOW_NS + 2, 1.5, "NY", 3, True),
    ]
    listed = served.client.call(served.client.features.ListViews, pb.ListViewsRequest(name="usage")).views
    assert listed[0].last_sequence == answers[1].sequence


def dictionary(log: FeatureLog) -> dict[str, list[str]]:
    """The strings of each feature by code, as a gateway puts them together."""
    words: dict[str, list[str]] = {}
    for batch in log.read(1):
        for feature, first_code, values in batch.additions:
            known = words.setdefault(feature, [])
            assert len(known) == first_code
            known.extend(values)
    return words


def test_a_repeated_stream_appends_nothing(served: Plane) -> None:
    """The same key and content get the same numbers, and a longer stream goes on where it was broken off."""
    messages = stream(rows_of(("p",)), rows_of(("q",)))
    first = materialize(served.client, messages)
    newest = log_of(served).newest
    assert materialize(served.client, messages) == first
    assert log_of(served).newest == newest
    longer = materialize(served.client, [*messages, pb.MaterializeRequest(rows=rows_of(("r",)))])
    assert longer[:2] == first
    assert longer[2].sequence == newest + 1


def test_a_key_used_for_other_rows_is_refused(served: Plane) -> None:
    """Nothing of the second stream is appended."""
    used = key()
    materialize(served.client, stream(rows_of(("p",)), idempotency_key=used))
    newest = log_of(served).newest
    answer = refused(served.client, stream(rows_of(("other",)), idempotency_key=used))
    assert (answer.code, answer.reason) == ("ALREADY_EXISTS", "IDEMPOTENCY_KEY_REUSED")
    assert log_of(served).newest == newest


def test_chunks_before_a_bad_one_stay(served: Plane) -> None:
    """They were acknowledged; the bad one leaves nothing."""
    newest = log_of(served).newest
    answers = []
    bad = rows_of(("b",), minutes=None)
    calling = served.client.features.Materialize(
        iter(stream(rows_of(("a",)), bad)), metadata=served.client.metadata, timeout=30
    )
    with pytest.raises(grpc.RpcError):
        answers.extend(answer.sequence for answer in calling)
    assert answers == [newest + 1]
    assert log_of(served).newest == newest + 1


def column(name: str, **lists: Any) -> pb.FeatureColumn:
    """A column as a caller may get it wrong."""
    return pb.FeatureColumn(name=name, **lists)


@pytest.mark.parametrize(
    ("rows", "field", "says"),
    [
        (rows_of(()), "keys", "1 to 10000 rows"),
        (rows_of(f"k{i}" for i in range(10_001)), "keys", "10001"),
        (rows_of(("a", "")), "keys", "row 1"),
        (rows_of(("ä" * 129,)), "keys", "258"),
        (rows_of(times=[NOW_NS]), "event_times_ns", "1 event times for 2 keys"),
        (rows_of(times=[NOW_NS, -1]), "event_times_ns", "row 1: -1 lies before 1970"),
        (rows_of(times=[NOW_NS, NOW_NS // 10**9]), "event_times_ns", "send nanoseconds"),
        (rows_of(times=[NOW_NS, NOW_NS // 10**3]), "event_times_ns", "send nanoseconds"),
        (rows_of(times=[NOW_NS, 2**62]), "event_times_ns", "future"),
        (rows_of(minutes=None), "minutes", "no column for minutes"),
        (rows_of(extra=column("extra", numbers=[1, 2])), "extra", "no such feature"),
        (rows_of(extra=column("calls", integers=[1, 2])), "calls", "twice"),
        (rows_of(minutes=column("minutes", integers=[1, 2])), "minutes", "fill `numbers`"),
        (rows_of(minutes=column("minutes", numbers=[1])), "minutes", "1 values"),
        (rows_of(minutes=column("minutes", numbers=[1, float("nan")])), "minutes", "row 1 is nan"),
        (rows_of(minutes=column("minutes", numbers=[float("inf"), 1])), "minutes", "row 0 is inf"),
        (rows_of(minutes=column("minutes", numbers=[1, 2], nulls=[2])), "minutes", "row 2"),
        (rows_of(state=column("state", texts=["a", "b" * 1025])), "state", "row 1 has 1025"),
        (rows_of(state=column("state", flags=[True, False])), "state", "fill `texts`"),
    ],
)
def test_bad_rows_are_refused_by_column_and_row(served: Plane, rows: pb.FeatureRows, field: str, says: str) -> None:
    """With the field as a fact, and nothing appended."""
    newest = log_of(served).newest
    answer = refused(served.client, stream(rows))
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "ARGUMENT_INVALID")
    assert answer.facts["field"] == field
    assert says in answer.message
    assert log_of(served).newest == newest


def test_nan_where_a_row_is_null_is_nobodys_business(served: Plane) -> None:
    """A null's value may be anything."""
    minutes = column("minutes", numbers=[1, float("nan")], nulls=[1])
    assert materialize(served.client, stream(rows_of(minutes=minutes)))[0].rows == 2


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "ARGUMENT_INVALID"),
        ([pb.MaterializeRequest(rows=rows_of())], "ARGUMENT_INVALID"),
        (stream() * 2, "ARGUMENT_INVALID"),
        (stream(idempotency_key=""), "IDEMPOTENCY_KEY_MISSING"),
        (stream(idempotency_key="k" * 129), "IDEMPOTENCY_KEY_MISSING"),
        (stream(view=""), "ARGUMENT_INVALID"),
        (stream(view="nowhere"), "VIEW_UNKNOWN"),
        (stream(view_hash="0" * 64), "VIEW_UNKNOWN"),
        (stream(view_hash=VIEW.digest(), view="other"), "VIEW_UNKNOWN"),
    ],
)
def test_streams_that_begin_badly_are_refused(
    served: Plane, messages: list[pb.MaterializeRequest], reason: str
) -> None:
    """Before any row is looked at."""
    assert refused(served.client, messages).reason == reason


def test_who_waits_for_batches_is_woken(served: Plane) -> None:
    """The log that the server appends to tells its readers."""
    log = FeatureLog(served.plane.store)
    newest = log.newest
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(log.wait(newest, 20)))
    waiting.start()
    log.announce(newest + 1)
    waiting.join()
    assert woken == [True]
    assert not log.wait(newest + 1, 0)


def test_every_batch_has_its_audit_entry(served: Plane) -> None:
    """With the view, the number and the rows; and the trail verifies."""
    sequence = materialize(served.client, stream(rows_of()))[0].sequence
    with served.plane.store.read() as connection:
        row = connection.exec_driver_sql("SELECT * FROM audit ORDER BY sequence DESC LIMIT 1").mappings().one()
    assert row["action"] == "features.materialize"
    assert f'"batch":{sequence}' in row["details_json"]
    assert row["actor"] == "ana"


texts = st.sampled_from(["", "TX", "NY", "a\0b", "ü", "x" * 200])
cell = st.tuples(
    st.sampled_from(["a", "b", "ü"]),
    st.integers(0, 10**9 - 1),
    st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.none() | texts,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.booleans(),
)


class FeatureLogMachine(RuleBasedStateMachine):
    """The log against a list: appended, rolled back, reopened, always the same rows under numbers without gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.directory.name) / "store.sqlite")
        with self.store.unit("ana") as unit:
            apply_view(unit, VIEW)
        self.log = FeatureLog(self.store)
        self.expected: list[list[tuple[Any, ...]]] = []

    def teardown(self) -> None:
        """Leaves no file behind."""
        self.store.close()
        self.directory.cleanup()

    def _append(self, rows: list[tuple[Any, ...]], fail: bool) -> None:
        with self.store.unit("ana") as unit:
            sequence = self.log.append(unit, VIEW, chunk_of(rows))
            unit.record("features.materialize", "usage", {})
            if fail:
                raise KeyError
        self.log.announce(sequence)

    @rule(rows=st.lists(cell, min_size=1, max_size=6))
    def append(self, rows: list[tuple[Any, ...]]) -> None:
        """A batch that is committed."""
        self._append(rows, fail=False)
        self.expected.append(rows)

    @rule(rows=st.lists(cell, min_size=1, max_size=6))
    def roll_back(self, rows: list[tuple[Any, ...]]) -> None:
        """A batch that is not, with strings that must not keep a code."""
        with pytest.raises(KeyError):
            self._append(rows, fail=True)

    @rule()
    def reopen(self) -> None:
        """As after a restart."""
        self.store.close()
        self.store = Store(Path(self.directory.name) / "store.sqlite")
        self.log = FeatureLog(self.store)

    @invariant()
    def holds_what_was_committed(self) -> None:
        """Read from the start, and from the middle."""
        words = dictionary(self.log)
        assert all(len(set(known)) == len(known) for known in words.values())
        batches = list(self.log.read(0))
        assert [batch.sequence for batch in batches] == list(range(1, len(self.expected) + 1))
        assert [decoded(VIEW, batch, words) for batch in batches] == self.expected
        assert self.log.newest == len(self.expected)
        middle = len(self.expected) // 2 + 1
        assert [batch.sequence for batch in self.log.read(middle)] == list(range(middle, len(self.expected) + 1))


def chunk_of(rows: list[tuple[Any, ...]]) -> Chunk:
    """Rows as they are sent, checked."""
    keys, times, *values = (list(column) for column in zip(*rows, strict=True))
    columns = []
    names = zip(VIEW.features, ("numbers", "texts", "integers", "flags"), (0.0, "", 0, False), values, strict=True)
    for feature, field, filler, cells in names:
        nulls = [row for row, value in enumerate(cells) if value is None]
        filled = [filler if value is None else value for value in cells]
        columns.append(Column(feature.name, {field: filled}, nulls))
    return check_chunk(VIEW, keys, times, columns, NOW_NS)


TestFeatureLog = pytest.mark.stress(pytest.mark.timeout(1200)(FeatureLogMachine.TestCase))
TestFeatureLog.settings = settings(max_examples=100 if STRESS else 10, stateful_step_count=12, deadline=None)


@pytest.mark.stress
def test_a_killed_server_loses_no_acknowledged_batch(tmp_path: Path) -> None:
    """It dies by SIGKILL between any two answers; the stream sent again goes on where it was, without a gap."""
    with running(tmp_path) as plane:
        token = token_for(plane.store, "ana", Role.FEATURE_WRITER, Role.ML_ENGINEER)
        client = Client(plane.address, token)
        client.call(client.features.ApplyView, pb.ApplyViewRequest(idempotency_key=key(), definition_yaml=VIEW_YAML))
    chunks = [
        rows_of([f"{chunk}-{row}" for row in range(1000)], state=column("state", texts=[f"s{chunk}"] * 1000))
        for chunk in range(12)
    ]
    seed = random.Random(3)
    for cycle in range(20 if STRESS else 2):
        messages = stream(*chunks, idempotency_key=f"cycle-{cycle}")
        acknowledged = killed_while_writing(tmp_path, token, messages, seed.randrange(len(chunks)))
        with running(tmp_path) as plane:
            answers = materialize(Client(plane.address, token), messages)
            assert answers[: len(acknowledged)] == acknowledged
            first = cycle * len(chunks) + 1
            assert [answer.sequence for answer in answers] == list(range(first, first + len(chunks)))
            batches = list(FeatureLog(plane.store).read(first))
            assert [batch.keys for batch in batches] == [list(chunk.keys) for chunk in chunks]
            assert dictionary(FeatureLog(plane.store))["state"] == [f"s{chunk}" for chunk in range(12)]
            with plane.store.read() as connection:
                assert verify(whole_trail(connection), read_head(connection)).first_bad == 0


def killed_while_writing(
    data: Path, token: str, messages: list[pb.MaterializeRequest], after: int
) -> list[pb.MaterializeResponse]:
    """Starts a server, materializes, kills it after so many answers, and returns the answers that came."""
    process = Process(data)
    client, answers = Client(process.address, token), []
    calling = client.features.Materialize(iter(messages), metadata=client.metadata, timeout=30)
    with suppress(grpc.RpcError):
        for answer in calling:
            answers.append(answer)
            if len(answers) == after + 1:
                process.process.kill()
    process.end(signal.SIGKILL)
    client.channel.close()
    return answers


def test_a_dictionary_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Strings that are no categories are refused, and their batch leaves nothing."""
    monkeypatch.setattr("control.features.log.MAX_STRINGS", 3)
    store = Store(tmp_path / "store.sqlite")
    with store.unit("ana") as unit:
        apply_view(unit, VIEW)
    log = FeatureLog(store)
    rows = [(str(i), 0, 0.0, str(i), 0, False) for i in range(4)]
    with pytest.raises(Fault, match="more than 3 different strings"), store.unit("ana") as unit:
        log.append(unit, VIEW, chunk_of(rows))
    assert list(log.read(1)) == []
    store.close()


def test_a_chunk_keeps_every_number_exactly() -> None:
    """No detour over floating point: int64 stay themselves at both ends."""
    ends = [-(2**63), 2**63 - 1, 2**53 + 1]
    chunk = chunk_of([("a", 0, 0.0, "", value, True) for value in ends])
    assert chunk.values["calls"].tolist() == ends
    assert chunk.values["calls"].dtype == np.int64
