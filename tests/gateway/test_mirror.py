"""The mirror: what shadows say of the bytes that callers were answered by, and what misbehaving ones do to nobody."""

from __future__ import annotations

import signal
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest

from control.v1 import data_plane_pb2 as wire
from gateway.contract.document import ModelDocument
from gateway.contract.row import RowCodec
from gateway.contract.schema import FeatureView
from gateway.features.writer import Batch
from gateway.journal_reader import JournalReader
from gateway.pairs import read_pairs
from gateway.v1 import inference_pb2 as oip
from tests.gateway import tiny
from tests.gateway.gateways import gateway
from tests.gateway.mirroring import GOOD, INFER, TRAPS, Mirroring, shadow, shadowed
from tests.gateway.roles import board, role
from tests.support import until

CHAMPION = tiny.version(1)
TWIN = CHAMPION._replace(number=2)
"""Another version with the champion's graph."""


def test_the_same_model_says_the_same_of_the_same_bytes(tmp_path: Path) -> None:
    """Correlation 1, no difference, no flips, whichever way the rows came: alone or in a batch."""
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, TWIN)), CHAMPION, TWIN)
    with here.mirror(9):
        for key in GOOD[:40]:
            here.score([key])
        here.score(GOOD[40:])
        report = here.once(9, pairs=len(GOOD))
        figures = here.figures(9)
    assert (report["pairs"], report["dropped"], report["exceptions"], report["non_finite"]) == (len(GOOD), 0, 0, 0)
    assert figures["correlation"] > 1 - 1e-12
    assert (figures["mean_absolute_difference"], figures["p99_absolute_difference"]) == (0, 0)
    assert min(report["shadow_p99_ns"], report["other_p99_ns"]) > 0


def test_what_only_a_shadow_fails_on_is_counted_and_others_go_on(tmp_path: Path) -> None:
    """Several shadows of one model at once, each by itself."""
    raising, nan, sound = tiny.version(2, "raising"), tiny.version(3, "nan"), tiny.version(4)
    table = shadowed(shadow(7, raising), shadow(8, nan), shadow(9, sound))
    here = Mirroring(tmp_path / "gateway", table, CHAMPION, raising, nan, sound)
    with here.mirror(7, 8, 9):
        assert set(here.score([*GOOD[:100], *TRAPS]).scores) == {float(1 + part) for part in range(15)} | {21.0}
        sums = [here.once(number, pairs=100) for number in (7, 8)]
        assert here.once(9, pairs=120)["exceptions"] == 0
        difference = here.figures(9)["mean_difference"]
    assert [(one["pairs"], one["exceptions"], one["non_finite"]) for one in sums] == [(100, 20, 0), (100, 0, 20)]
    assert difference == pytest.approx(3.0)


def test_rows_that_both_fail_on_are_held_against_nobody(tmp_path: Path) -> None:
    """They are no pairs, and no exceptions."""
    champion, raising = tiny.version(1, "nan"), tiny.version(2, "raising")
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, raising), champion=champion), champion, raising)
    with here.mirror(9):
        here.score([*TRAPS, *GOOD[:10]])
        report = here.once(9, pairs=10)
        assert here.figures(9)["other_failed"] == len(TRAPS)
    assert (report["exceptions"], report["non_finite"]) == (0, 0)


def test_calls_that_name_a_version_are_not_mirrored(tmp_path: Path) -> None:
    """Nor is what came before there was a shadow."""
    here = Mirroring(tmp_path / "gateway", tiny.table(8, CHAMPION), CHAMPION, TWIN)
    here.score(GOOD[:50])
    here.publish(shadowed(shadow(9, TWIN)))
    with here.mirror(9):
        here.score(GOOD[:20], version=1)
        here.score(GOOD[:30])
        assert here.once(9, pairs=30)["dropped"] == 0


def test_a_row_that_the_control_answered_for_a_challenger_is_mirrored_once(tmp_path: Path) -> None:
    """As the challenger's attempt; and the control is what the challenger is compared with, on rows of both arms."""
    challenger = tiny.version(2, "nan")
    table = tiny.canary(challenger, CHAMPION, 5_000)
    table.models[0].shadows.append(shadow(9, challenger))
    here = Mirroring(tmp_path / "gateway", table, CHAMPION, challenger)
    with here.mirror(9):
        reply = here.score([*GOOD[:40], *TRAPS])
        assert set(reply.versions) == {1, 2}
        report = here.once(9, pairs=40, non_finite=len(TRAPS))
    assert (report["pairs"], report["non_finite"], report["dropped"]) == (40, len(TRAPS), 0)


def test_what_is_too_much_is_dropped_and_counted(tmp_path: Path) -> None:
    """The oldest rows go, whatever they say; pairs and drops are all rows together."""
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, TWIN)), CHAMPION, TWIN)
    with here.mirror(9) as process:
        process.send_signal(signal.SIGSTOP)
        for _ in range(30):
            here.score(GOOD)
        process.send_signal(signal.SIGCONT)
        until(lambda: (found := here.report(9))["pairs"] + found["dropped"] == 30 * len(GOOD), 60)
        assert here.figures(9)["dropped"] == {"behind": here.report(9)["dropped"]}
        assert here.report(9)["pairs"] >= 4_096 - len(GOOD)


def test_figures_go_on_after_a_restart(tmp_path: Path) -> None:
    """Totals, and the thresholds that were frozen by the first runs."""
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, TWIN)), CHAMPION, TWIN)
    with here.mirror(9) as process:
        here.score(GOOD)
        here.once(9, pairs=len(GOOD))
        before = here.figures(9)["thresholds_ns"]
        process.kill()
        process.wait()
    here.score(GOOD[:50])  # while nobody reads
    with here.mirror(9):
        here.score(GOOD[:10])
        report = here.once(9, pairs=len(GOOD) + 60)
        assert here.figures(9)["thresholds_ns"] == before
    assert (report["pairs"], report["exceptions"]) == (len(GOOD) + 60, 0)
    assert len(before) == len(report["slow_shadow"]) == len(report["slow_other"]) == 4


def spinning(here: Mirroring, process: Popen[bytes], key: str) -> None:
    """Has the mirror run a row that it does not come back from, and waits until it does."""
    here.score([key])
    mark = here.config.data / "mirror.mark"
    until(lambda: mark.read_bytes()[0] == 2, 60)
    assert process.poll() is None


def test_a_shadow_that_ends_the_process_is_charged_with_it_and_left_alone_after_three_times(tmp_path: Path) -> None:
    """The row that did it is not tried again, and other shadows go on."""
    spins = tiny.version(4, "spinning")
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(8, spins), shadow(9, TWIN)), CHAMPION, spins, TWIN)
    for crash in range(3):
        with here.mirror(8, 9) as process:
            here.score(GOOD[:10])
            here.once(8, pairs=10 * (crash + 1))
            here.once(9, pairs=10 * (crash + 1))
            spinning(here, process, TRAPS[crash])
            process.send_signal(signal.SIGSEGV)
            assert process.wait() == -signal.SIGSEGV
    with here.mirror(9):
        here.score(GOOD[:10])
        assert here.once(9, pairs=40)["exceptions"] == 0
        report = here.once(8, exceptions=3, dropped=10)
        problems = board(here.config, "mirror")["problems"]
    assert (report["pairs"], report["exceptions"]) == (30, 3)
    assert any("SHADOW_NOT_SCORED" in problem and "minutes/4" in problem for problem in problems)


@pytest.mark.stress
def test_a_run_that_cannot_be_ended_ends_the_process(tmp_path: Path) -> None:
    """By itself: a single product of matrices heeds nobody."""
    spins = tiny.version(2, "spinning")
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(8, spins)), CHAMPION, spins)
    with here.mirror(8) as process:
        here.score(TRAPS[:1])
        assert process.wait(120) == -signal.SIGKILL
    with here.mirror(8):
        here.once(8, exceptions=1)


def test_a_shadow_that_wants_too_much_memory_is_refused_it(tmp_path: Path) -> None:
    """The run fails, and nothing else."""
    grows = tiny.version(2, "growing")
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, grows)), CHAMPION, grows, mirror_bytes=192 << 20)
    with here.mirror(9) as process:
        here.score([*TRAPS[:3], *GOOD[:10]])
        report = here.once(9, pairs=10)
        assert process.poll() is None
    assert report["exceptions"] == 3


def test_a_shadow_that_keeps_memory_has_the_mirror_begin_anew(tmp_path: Path) -> None:
    """Before others are refused some; what was counted stays, and that is no exception of the version's."""
    grows = tiny.version(2, "growing")
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, grows)), CHAMPION, grows, mirror_bytes=448 << 20)
    with here.mirror(9) as process:
        here.score(GOOD[:10])
        here.once(9, pairs=10)
        here.score(TRAPS[:1])
        assert process.wait(60) == 0
    with here.mirror(9):
        report = here.once(9, pairs=11)
        assert here.figures(9)["crashes"] == 1
    assert report["exceptions"] == 0


PLAN = FeatureView.model_validate(
    {"name": "plan", "entity": "subscriber", "features": [{"name": "minutes", "type": "float32", "default": 5.0}]}
)
WIDER = ModelDocument.model_validate(
    {
        **tiny.DOCUMENT.model_dump(mode="json"),
        "views": {"plan": PLAN.digest()},
        "inputs": [{"view": "plan", "feature": "minutes", "feeds": "x"}],
        "segments": ["plan.minutes"],
    }
)


def of_plan(table: wire.RouteTable, shadowing: wire.Shadow) -> wire.RouteTable:
    """The table with a shadow whose version takes the view `plan`."""
    shadowing.version.document_json = WIDER.canonical()
    shadowing.version.digest = tiny.sha256(b"takes plan")
    table.models[0].shadows.append(shadowing)
    table.views.append(wire.PinnedView(hash=PLAN.digest(), definition_json=PLAN.canonical()))
    return table


def test_a_shadow_may_take_views_that_the_champion_does_not(tmp_path: Path) -> None:
    """The worker journals them beside, from the same snapshot; a shadow waits until they are materialized."""
    golden = b"plan.minutes,expected\n1,3\n2.5,4.5\n"
    version = tiny.version(2)._replace(golden=golden)
    table = of_plan(shadowed(), shadow(9, version))
    here = Mirroring(tmp_path / "gateway", table, CHAMPION, version)
    codec, times = RowCodec(PLAN), np.full(100, 1_000)
    rows = codec.encode(times, times, {"minutes": np.full(100, 70.0)}, {})
    here.materialize(Batch(17, PLAN.digest(), PLAN.canonical(), {}, GOOD[:100], rows))
    with here.mirror(9):
        champion = sum(here.score(GOOD[:120]).scores)
        report = here.once(9, pairs=120)
        figures = here.figures(9)
    assert report["dropped"] == report["exceptions"] == 0
    assert figures["mean_difference"] == pytest.approx((100 * 72 + 20 * 7 - champion) / 120)


def test_what_a_document_calls_segments_has_figures_of_its_own(tmp_path: Path) -> None:
    """By the value that the row was scored with."""
    document = tiny.DOCUMENT.model_copy(update={"segments": ("usage.minutes",)})
    table = shadowed(shadow(9, TWIN))
    table.models[0].champion.document_json = document.canonical()
    here = Mirroring(tmp_path / "gateway", table, CHAMPION, TWIN)
    with here.mirror(9):
        here.score([*GOOD[:30], "nobody"])
        here.once(9, pairs=31)
        found = here.figures(9)["segments"]["usage.minutes"]
    assert {value: one["pairs"] for value, one in found.items()} == {f"{part}.0": 2 for part in range(15)} | {"": 1}


def test_calls_by_tensors_are_mirrored_too(tmp_path: Path) -> None:
    """Raw inputs of the graph, as clients of the Open Inference Protocol send them."""
    sound = tiny.version(4)
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, sound)), CHAMPION, sound)
    contents = oip.InferTensorContents(fp32_contents=[1.0, 2.0, 3.0])
    x = oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[3, 1], contents=contents)
    with here.mirror(9):
        here.call(INFER, oip.ModelInferRequest(model_name=tiny.MODEL, inputs=[x]))
        report = here.once(9, pairs=3)
        assert here.figures(9)["mean_difference"] == pytest.approx(3.0)
    assert report["dropped"] == 0


def test_each_pair_is_journalled_with_the_prediction_that_a_caller_got(tmp_path: Path) -> None:
    """So that it meets the outcome of that prediction later."""
    sound = tiny.version(4)
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, sound)), CHAMPION, sound)
    with here.mirror(9):
        replies = [here.score(GOOD[:5]), here.score(GOOD[5:7])]
        here.once(9, pairs=7)
    blocks = list(JournalReader(here.config.mirror_journal_path).poll())
    found = {
        prediction_id: (shadowed_row["score"], other["score"])
        for block in blocks
        for pairs in [read_pairs(block)]
        for prediction_id, shadowed_row, other in zip(pairs.prediction_ids, block.rows, pairs.other, strict=True)
    }
    expected = {
        prediction_id: (score + 3, score)
        for reply in replies
        for prediction_id, score in zip(reply.prediction_ids, reply.scores, strict=True)
    }
    assert found == expected
    assert {(block.model, block.version, block.rollout_id) for block in blocks} == {(tiny.MODEL, 4, 9)}
    assert {read_pairs(block).other_version for block in blocks} == {1}


def test_a_version_that_cannot_be_loaded_is_a_problem_and_its_rows_are_dropped(tmp_path: Path) -> None:
    """Its artifact is damaged on this host."""
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(8, TWIN), shadow(9, tiny.version(4))), CHAMPION, TWIN)
    broken = tiny.version(4).served().model_sha256
    (here.config.artifacts_path / broken).write_bytes(b"no model")
    with here.mirror(8):
        until(lambda: board(here.config, "mirror")["problems"])
        here.score(GOOD[:10])
        assert here.once(8, pairs=10)["dropped"] == 0
        report = here.once(9, dropped=10)
        (problem,) = board(here.config, "mirror")["problems"]
    assert report["pairs"] == report["exceptions"] == 0
    assert "SHADOW_NOT_SCORED: minutes/4" in problem


def test_a_rollout_that_is_over_is_forgotten(tmp_path: Path) -> None:
    """The mirror goes on with the others, or rests."""
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, TWIN)), CHAMPION, TWIN)
    with here.mirror(9):
        here.score(GOOD[:10])
        here.once(9, pairs=10)
        here.publish(tiny.table(11, CHAMPION))
        until(lambda: not board(here.config, "mirror")["shadows"])
        here.score(GOOD[:10])
        here.publish(shadowed(shadow(10, TWIN)))
        until(lambda: board(here.config, "mirror")["scored"] == [10])
        here.score(GOOD[:5])
        assert here.once(10, pairs=5)["pairs"] == 5


def test_the_supervisor_starts_a_mirror_and_starts_it_again(tmp_path: Path) -> None:
    """In a whole gateway; a mirror that is killed costs callers nothing and goes on where it was."""
    here = Mirroring(tmp_path / "gateway", shadowed(shadow(9, TWIN)), CHAMPION, TWIN)
    with gateway(here.config.data, "--mirror-niceness=0") as running:
        until(running.ready)
        until(lambda: running.board("mirror").get("scored") == [9], 60)
        for key in GOOD[:5]:
            running.score(key)
        here.once(9, pairs=5)
        killed = running.children()
        next(child for child in killed if child.pid == running.pid("mirror")).kill()
        for key in GOOD[:5]:
            assert running.score(key).version == 1
        assert here.once(9, pairs=10)["exceptions"] == 0


def test_without_a_shadow_the_mirror_rests(tmp_path: Path) -> None:
    """It says so, and keeps nothing."""
    here = Mirroring(tmp_path / "gateway", tiny.table(8, CHAMPION), CHAMPION)
    with role("mirror", here.config):
        until(lambda: board(here.config, "mirror"))
        assert board(here.config, "mirror")["shadows"] == {}
    assert not here.config.mirror_journal_path.exists()
