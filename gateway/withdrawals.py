"""Withdrawals on disk: durable before anything else happens, written by several processes, read by every worker."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gateway.artifacts import replace_durably
from gateway.contract.errors import Fault, Reason
from gateway.stepback import Kind, Withdrawal
from gateway.wire.routes import RouteTable, ServedVersion

FORMAT: Final = 1
FILE: Final = "withdrawals"
MOST: Final = 256
"""Withdrawals that a gateway holds at a time; each is dropped when the control plane has taken it into account."""
NS_PER_MS: Final = 1_000_000


class Withdrawals:
    """The file of one gateway: the SHA-256 of its second line, then JSON. It is replaced whole."""

    def __init__(self, data: Path) -> None:
        self.path = data / FILE

    def read(self) -> tuple[Withdrawal, ...]:
        """What is withdrawn; raises ValueError for a file that is damaged or of another release."""
        try:
            digest, _, text = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return ()
        if hashlib.sha256(text).hexdigest().encode() != digest:
            raise ValueError(f"{self.path.name}: the record of what this gateway withdrew is damaged")
        found: dict[str, Any] = json.loads(text)
        if found["format"] != FORMAT:
            raise ValueError(f"{self.path.name} has format {found['format']}; this gateway reads {FORMAT}")
        return tuple(Withdrawal(**one | {"kind": Kind(one["kind"])}) for one in found["withdrawals"])

    def add(self, table: RouteTable, versions: Iterable[ServedVersion], why: tuple[Kind, str, str]) -> list[Withdrawal]:
        """Withdraws versions of a table durably; `why` is the kind, the actor and the reason."""
        kind, actor, reason = why
        with self._changing() as (found, keep):
            now_ns = time.time_ns()
            known = {(one.model, one.digest) for one in found}
            # A clock that never repeats: a lost file gives no number again.
            first = max([now_ns // NS_PER_MS, *(one.number + 1 for one in found)])
            added = [
                Withdrawal(
                    number=first + index,
                    model=served.model,
                    version=served.version,
                    digest=served.digest,
                    kind=kind,
                    actor=actor,
                    reason=reason,
                    time_ns=now_ns,
                    history_id=table.history_id,
                    revision=table.revision,
                )
                for index, served in enumerate(v for v in versions if (v.model, v.digest) not in known)
            ]
            if len(found) + len(added) > MOST:
                raise Fault(Reason.TRANSITION_REFUSED, f"this gateway holds {len(found)} withdrawals, more than enough")
            keep([*found, *added])
        return added

    def change(self, decide: Callable[[Sequence[Withdrawal]], Sequence[Withdrawal]]) -> None:
        """Replaces what is withdrawn by what a pure function makes of it; writes only a difference."""
        with self._changing() as (found, keep):
            decided = tuple(decide(found))
            if decided != found:
                keep(decided)

    @contextmanager
    def _changing(self) -> Iterator[tuple[tuple[Withdrawal, ...], Callable[[Sequence[Withdrawal]], None]]]:
        """One writer at a time, whatever process it is in."""
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield self.read(), self._keep
        finally:
            os.close(descriptor)

    def _keep(self, withdrawals: Sequence[Withdrawal]) -> None:
        text = json.dumps({"format": FORMAT, "withdrawals": [one._asdict() for one in withdrawals]}).encode()
        replace_durably(self.path, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
