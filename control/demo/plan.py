"""The steps of the story, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from control.demo import churn, rollouts
from control.demo.recipes import PLANTED, Planted
from control.demo.story import Story

NEW: Final = tuple(name for name in churn.SECOND if name not in churn.FIRST)

Step = tuple[str, Callable[[Story], str]]


def _planted(planted: Planted) -> list[Step]:
    name = f"version {planted.version}: {planted.kind.replace('_', ' ')}"
    return [
        (f"Plant {name}", partial(Story.plant, planted=planted)),
        (f"Roll out {name}", partial(rollouts.back_by_itself, planted=planted)),
    ]


STEPS: Final[Sequence[Step]] = (
    ("Read mlc_churn.csv", Story.read_data),
    ("Train version 1", lambda story: story.train(1)),
    ("Start the control plane", Story.start_control),
    ("Give people their tokens", Story.give_tokens),
    ("Start a gateway", Story.start_gateway),
    ("Define feature views", lambda story: story.define_features(churn.FIRST)),
    ("Materialize features", lambda story: story.materialize(churn.FIRST)),
    ("Register version 1", lambda story: story.register(1)),
    ("Approve version 1", lambda story: story.approve(1)),
    ("Promote version 1", lambda story: story.promote(1)),
    ("Score by subscriber id, version 1", lambda story: story.score_one_by_one(1)),
    ("Score in batches, version 1", lambda story: story.score_in_batches(1)),
    ("Train version 2: one more feature", lambda story: story.train(2)),
    ("Define and materialize its view", lambda story: f"{story.define_features(NEW)}, {story.materialize(NEW)}"),
    ("Register version 2", lambda story: story.register(2)),
    ("Approve version 2", lambda story: story.approve(2)),
    ("Roll version 2 out under traffic", lambda story: rollouts.to_full_traffic(story, 2)),
    ("Score by subscriber id, version 2", lambda story: story.score_one_by_one(2)),
    ("Score in batches, version 2", lambda story: story.score_in_batches(2)),
    *(step for planted in PLANTED for step in _planted(planted)),
    ("Verify the audit trail", Story.verify_audit),
    ("Stop both services", Story.stop),
)
