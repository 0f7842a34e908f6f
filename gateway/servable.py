"""Servables: versions loaded in this worker. The only module of the gateway that knows onnxruntime."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime

from gateway.contract.errors import Fault, Reason
from gateway.contract.golden import check_golden, golden_inputs, read_golden
from gateway.contract.missing import MissingPolicy
from gateway.contract.row import RowCodec
from gateway.contract.tensors import Array, Feed, GraphTensor, narrow, plan_inputs, row_by_row, takes_one_row
from gateway.features.store import view_key
from gateway.watch import Watch
from gateway.wire.routes import ServedVersion

WARM_RUNS: Final = 3
SILENT: Final = 4
"""The runtime would print a line of its own for each run that fails; what it says is in its exception, and logged."""
WATCH: Final = Watch()
"""Ends runs that take too long: one at a time, as there is one pipeline in a process."""
NO_GRAPH: Final = ("gpu_graph_id", "0")
"""The runtime asks each run's options for this, and where it is not set raises within, which costs 30 µs."""
NO_OUTPUTS: Final[Mapping[str, Array]] = MappingProxyType({})


class StoredView(NamedTuple):
    """How a servable reads one of its views."""

    name: str
    key: bytes
    """What marks the view's rows in the online store."""
    entity: str
    """The entity whose key finds a row."""
    codec: RowCodec
    policy: MissingPolicy
    texts: tuple[str, ...]
    """The string features that the model takes."""


class Bound(NamedTuple):
    """Buffers for one row that the runtime reads and writes in place."""

    binding: Any
    inputs: dict[str, Array]
    output: Array


class Servable:
    """A version that can answer. Used by one thread at a time."""

    def __init__(self, served: ServedVersion, session: Any, feeds: tuple[Feed, ...]) -> None:
        self.served = served
        self.document = served.document
        self.feeds = feeds
        self.narrow = narrow(feeds)
        self.views = stored_views(served)
        self.assign_by = self.document.assign_by or next(iter(self.document.entities), None)
        self.requested = self.document.requested
        self.labels = {label: index for index, label in enumerate(self.document.decision_labels)}
        """The index by which the journal keeps each decision."""
        self.slow_ns = 0
        """About the slowest of the latest runs, which forgets by a thousandth a run: what others must leave it time
        for. Kept up only while it stands beside a challenger."""
        self.last_error = ""
        """What the runtime said when a row last failed; for operators, never for callers."""
        self.inputs = _tensors(session.get_inputs())
        self.outputs = _tensors(session.get_outputs())
        self.one_row = takes_one_row(self.inputs)
        """Whether the graph takes a single row at a time, because it was exported with a fixed batch of one."""
        self._session = session
        self._score = [self.document.output.score]
        self._bound: Bound | None = None

    def run(
        self, inputs: dict[str, Array], outputs: tuple[str, ...] | None = None, until_ns: int = 0
    ) -> tuple[Array, Mapping[str, Array]]:
        """The score output for the graph's inputs, and others that are wanted: none for all, None for no other.

        Raises whatever the runtime raises, and TimeoutError where the run was ended at `until_ns`, a monotonic time
        and 0 for none. The score output of a single row lies in a buffer that the next run uses again.
        """
        if not until_ns:
            return self._run(inputs, outputs, None)
        options = onnxruntime.RunOptions()
        options.log_severity_level = SILENT
        options.add_run_config_entry(*NO_GRAPH)
        with WATCH.until(until_ns, options):
            try:
                return self._run(inputs, outputs, options)
            except Exception as error:  # the runtime's exceptions have no common class
                if options.terminate:
                    raise TimeoutError from error
                raise

    def _run(
        self, inputs: dict[str, Array], outputs: tuple[str, ...] | None, options: Any
    ) -> tuple[Array, Mapping[str, Array]]:
        if outputs is not None:
            names = outputs or tuple(item.name for item in self.outputs)
            score, *values = self._session.run([*self._score, *names], inputs, options)
            return score, dict(zip(names, values, strict=True))
        bound = self._bound
        if bound is not None and len(next(iter(inputs.values()))) == 1:
            for name, values in inputs.items():
                bound.inputs[name][...] = values
            self._session.run_with_iobinding(bound.binding, options)
            return bound.output, NO_OUTPUTS
        return self._session.run(self._score, inputs, options)[0], NO_OUTPUTS

    def score(self, inputs: dict[str, Array]) -> Array:
        """The score output for any number of rows, before anything is bound."""
        return row_by_row(self._run_score, inputs) if self.one_row else self._run_score(inputs)

    def _run_score(self, inputs: dict[str, Array]) -> Array:
        return self.run(inputs)[0]

    def bind(self, one_row: dict[str, Array]) -> None:
        """Lets single rows be run in buffers that are bound once, which halves their cost; strings cannot be."""
        output = np.ascontiguousarray(self.run(one_row)[0])
        if any(array.dtype == object for array in (output, *one_row.values())):
            return
        inputs = {name: values.copy() for name, values in one_row.items()}
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        binding.bind_output(self._score[0], "cpu", 0, output.dtype, output.shape, output.ctypes.data)
        self._bound = Bound(binding, inputs, output)


def load(served: ServedVersion, artifacts: Path) -> Servable:
    """Loads a version from the artifact directory, checks it on its golden rows and warms it.

    Raises Fault(ADMISSION_REFUSED) where the bytes are not those that the table names, or do not do what it says.
    """
    name = f"{served.model}/{served.version}"
    model = _verified(artifacts, served.model_sha256, name)
    golden_text = _verified(artifacts, served.golden_sha256, name).decode()
    try:
        session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
        feeds = plan_inputs(served.document, served.views, _tensors(session.get_inputs()))
        servable = Servable(served, session, feeds)
        golden = read_golden(golden_text, served.document, served.views)
        check_golden(served.document, feeds, golden, servable.score)
        one_row = {feed: values[:1] for feed, values in golden_inputs(feeds, golden).items()}
        servable.bind(one_row)
        for _ in range(WARM_RUNS):
            servable.run(one_row)
    except ValueError as error:
        raise Fault(Reason.ADMISSION_REFUSED, f"{name}: {error}") from error
    except Exception as error:  # the runtime's exceptions have no common class
        raise Fault(Reason.ADMISSION_REFUSED, f"{name} cannot be loaded and run ({type(error).__name__})") from error
    return servable


def _tensors(items: Any) -> tuple[GraphTensor, ...]:
    return tuple(GraphTensor(item.name, item.type, tuple(item.shape)) for item in items)


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    # One worker per core: more threads inside a run would only contend, and spinning would burn the core between runs.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = SILENT
    return options


def _verified(artifacts: Path, sha256: str, name: str) -> bytes:
    try:
        raw = (artifacts / sha256).read_bytes()
    except OSError:
        raise Fault(Reason.ARTIFACT_UNKNOWN, f"{name}: artifact {sha256} is not on this host") from None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise Fault(Reason.DIGEST_MISMATCH, f"{name}: artifact {sha256} was changed on this host")
    return raw


def stored_views(served: ServedVersion) -> tuple[StoredView, ...]:
    """How each view that a version takes is read."""
    return tuple(_stored_view(served, name) for name in served.views)


def _stored_view(served: ServedVersion, name: str) -> StoredView:
    view = served.views[name]
    codec = RowCodec(view)
    used = [item.feature for item in served.document.stored if item.view == name]
    texts = tuple(feature for feature in used if codec.places[feature].block == "code")
    return StoredView(name, view_key(view.digest()), view.entity, codec, MissingPolicy(codec, used), texts)
