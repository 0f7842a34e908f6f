"""Alerts of which nothing follows by itself: a champion that decays, or harm by a version that a person promoted."""

from __future__ import annotations

import pytest

from control.rollout.alarms import Failing, decay, decay_alerts, harm_alerts
from control.security import Role
from control.server import ControlPlane
from control.v1 import data_plane_pb2 as wire
from control.v1 import rollout_pb2 as pb
from tests.control.planes import client_for, make_champion
from tests.control.test_rollout import approved, gateway, status
from tests.control.test_rollouts import start
from tests.support import until


@pytest.mark.parametrize(
    ("seen", "decays"),
    [
        (Failing(1_000, 50, 10_000, 0), True),
        (Failing(1_000, 49, 10_000, 0), False),
        (Failing(100, 19, 10_000, 0), False),
        (Failing(100, 20, 0, 0), True),
        (Failing(1_000, 150, 10_000, 500), True),
        (Failing(1_000, 149, 10_000, 500), False),
        (Failing(0, 0, 0, 0), False),
    ],
)
def test_a_champion_decays_when_it_fails_far_more_often_than_before(seen: Failing, decays: bool) -> None:
    """At least 20 rows, 5 % of them, and three times the share of the hour before."""
    assert (decay([seen]) is not None) is decays


def test_gateways_are_summed() -> None:
    """A little of it at each of many is enough in all; nobody who says something is nobody who fails."""
    assert decay([Failing(50, 5, 0, 0)] * 3) is None
    assert decay([Failing(50, 5, 0, 0)] * 4) == Failing(200, 20, 0, 0)
    assert decay([]) is None


def test_an_alert_names_the_command_that_is_possible() -> None:
    """To go back, or where there is nothing to go back to, to stop."""
    seen = [Failing(1_000, 600, 10_000, 20)]
    (words,) = decay_alerts("churn", [3, 2], seen)
    assert words == (
        "CHAMPION_DECAYS: 600 of 1,000 rows (60%) failed in the last 5 minutes, 20 of 10,000 in the hour before; "
        "`interlock rollback churn --reason WHY` has churn/3 answer again"
    )
    (alone,) = decay_alerts("churn", [], seen)
    assert "interlock model stop churn" in alone


def test_harm_is_an_alert_only_of_what_was_promoted_without_evidence() -> None:
    """Whatever else does harm goes back by itself."""
    harm = pb.Finding(metric="errors", test="harm", log_e=9, threshold=6, reached=True, challenger=30, control=1)
    forced = pb.Rollout(model="churn", challenger=4, control=3, without_evidence=True, findings=[harm])
    (words,) = harm_alerts(forced)
    assert words.startswith("PROMOTED_VERSION_HARMS: churn/4 was promoted without evidence")
    assert "`interlock rollback churn" in words
    assert not harm_alerts(pb.Rollout(model="churn", challenger=4, findings=[harm]))


def test_what_gateways_say_of_traffic_reaches_status_and_forecast(plane: ControlPlane) -> None:
    """A decaying champion is in the status with its command; nothing is rolled back by itself."""
    mia, ben = client_for(plane, "mia", Role.ML_ENGINEER), client_for(plane, "ben", Role.APPROVER)
    first, second = approved(plane, ben, "decay"), approved(plane, ben, "decay")
    make_champion(mia, ben, "decay", first)
    make_champion(mia, ben, "decay", second)
    lately = wire.ModelTraffic(
        model="decay",
        rows_per_s=100,
        entities_per_hour=50_000,
        bad_rates={"errors": 0.001, "a metric of a later release": 0.5},
        recent_rows=30_000,
        recent_failed=3_000,
        earlier_rows=300_000,
        earlier_failed=300,
    )
    with gateway(plane, "g1") as watching:
        watching.say(watching.tables[-1].revision, lately)
        problems = until(lambda: [one for one in status(mia, "decay").problems if one.startswith("CHAMPION_DECAYS")])
        assert f"has decay/{first} answer again" in problems[0]
        assert status(mia, "decay").champion_version == second
        third = approved(plane, ben, "decay")
        started = start(mia, "decay", third, "")
        assert started.forecast[0] == "At 100 rows/s from about 50,000 entities an hour:"
        assert any("the step at 1 % " in line for line in started.forecast)
        assert [one.challenger for one in status(mia, "decay").rollouts] == [third]
