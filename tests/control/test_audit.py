"""The audit chain: whatever is done to a written trail, verification finds it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control.store.audit import Entry, Head, append, genesis, verify

HISTORY = "0123456789abcdef0123456789abcdef"
TEXTS = ("actor", "action", "subject", "details_json", "previous_hash", "hash")

drafts = st.builds(
    Entry,
    sequence=st.just(0),
    time_ns=st.integers(0, 2**62),
    actor=st.text(max_size=4),
    action=st.sampled_from(["version.approve", "token.create"]),
    subject=st.text(max_size=4),
    details_json=st.sampled_from(["{}", '{"digest":"0a"}', '{"comment":"größer"}']),
    previous_hash=st.just(""),
    hash=st.just(""),
)
trails = st.lists(drafts, min_size=1, max_size=6)


def written(entries: list[Entry]) -> tuple[list[Entry], Head]:
    """The trail that these entries make, and its head."""
    head, trail = Head(HISTORY, 0, genesis(HISTORY)), []
    for entry in entries:
        trail.append(append(head, entry))
        head = Head(HISTORY, trail[-1].sequence, trail[-1].hash)
    return trail, head


@given(st.lists(drafts, max_size=6))
def test_a_trail_as_it_was_written_verifies(entries: list[Entry]) -> None:
    """Numbers begin at 1, have no gaps, and every hash fits."""
    trail, head = written(entries)
    assert [entry.sequence for entry in trail] == list(range(1, len(entries) + 1))
    assert verify(trail, head) == (len(entries), 0, "")


@given(trails, st.data())
def test_any_flipped_bit_of_any_field_is_found_at_its_entry(entries: list[Entry], data: st.DataObject) -> None:
    """One bit of one character, or of one number, names the entry that has it."""
    trail, head = written(entries)
    index = data.draw(st.integers(0, len(trail) - 1))
    field = data.draw(st.sampled_from([*TEXTS, "sequence", "time_ns"]))
    value = getattr(trail[index], field)
    if isinstance(value, int):
        changed: object = value ^ 1 << data.draw(st.integers(0, 40))
    else:
        place = data.draw(st.integers(0, len(value)))
        flipped = chr(ord(value[place]) ^ 1) if place < len(value) else "x"
        changed = value[:place] + flipped + value[place + 1 :]
    trail[index] = trail[index]._replace(**{field: changed})
    assert verify(trail, head).first_bad == index + 1


@given(trails, st.data())
def test_a_missing_entry_is_found(entries: list[Entry], data: st.DataObject) -> None:
    """Wherever it was, the last one included."""
    trail, head = written(entries)
    index = data.draw(st.integers(0, len(trail) - 1))
    del trail[index]
    assert verify(trail, head).first_bad == index + 1


@given(st.lists(drafts, min_size=2, max_size=6), st.data())
def test_entries_that_changed_places_are_found(entries: list[Entry], data: st.DataObject) -> None:
    """The first place that has another entry is named."""
    trail, head = written(entries)
    first, second = sorted(data.draw(st.lists(st.integers(0, len(trail) - 1), min_size=2, max_size=2, unique=True)))
    trail[first], trail[second] = trail[second], trail[first]
    assert verify(trail, head).first_bad == first + 1


@given(trails, drafts, st.data())
def test_an_inserted_entry_is_found(entries: list[Entry], forged: Entry, data: st.DataObject) -> None:
    """Even one that was hashed rightly after the entry before it: then the one behind it does not fit."""
    trail, head = written(entries)
    index = data.draw(st.integers(0, len(trail)))
    before = trail[index - 1] if index else Entry(0, 0, "", "", "", "", "", genesis(HISTORY))
    trail.insert(index, append(Head(HISTORY, before.sequence, before.hash), forged))
    assert verify(trail, head).first_bad in (index + 1, index + 2)


@given(trails, st.data())
def test_a_rewritten_tail_is_found_by_the_head(entries: list[Entry], data: st.DataObject) -> None:
    """Who rewrites an entry and every hash after it still has another head."""
    trail, head = written(entries)
    index = data.draw(st.integers(0, len(trail) - 1))
    forged = [*entries[:index], entries[index]._replace(actor=entries[index].actor + "x"), *entries[index + 1 :]]
    rewritten, _ = written(forged)
    assert verify(rewritten, head).first_bad == len(trail)


def test_a_trail_of_another_history_is_found() -> None:
    """The first hash names the history, so trails cannot be exchanged."""
    trail, head = written([Entry(0, 1, "ana", "a", "b", "{}", "", "")])
    assert verify(trail, head._replace(history_id="another")).first_bad == 1
