"""Artifacts: whole, checked and durable, or not there."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from gateway.artifacts import Artifacts, replace_durably
from gateway.contract.errors import Fault, Reason
from tests.gateway.tiny import sha256

CONTENT = b"the bytes of a model"


def receive(artifacts: Artifacts, digest: str, content: bytes) -> None:
    """Takes in an artifact in two pieces."""
    with closing(artifacts.receive(digest)) as incoming:
        incoming.add(content[:5])
        incoming.add(content[5:])
        incoming.finish()


def test_an_artifact_is_there_once_it_is_finished(tmp_path: Path) -> None:
    """It gets its name at the end."""
    artifacts = Artifacts(tmp_path)
    with closing(artifacts.receive(sha256(CONTENT))) as incoming:
        incoming.add(CONTENT)
        assert artifacts.missing([sha256(CONTENT)]) == [sha256(CONTENT)]
        incoming.finish()
    assert artifacts.missing([sha256(CONTENT)]) == []
    assert (tmp_path / sha256(CONTENT)).read_bytes() == CONTENT


def test_bytes_that_are_not_what_the_digest_names_leave_nothing(tmp_path: Path) -> None:
    """The message names both digests."""
    with pytest.raises(Fault, match=sha256(b"other!!")) as raised:
        receive(Artifacts(tmp_path), sha256(CONTENT), b"other!!")
    assert raised.value.reason is Reason.DIGEST_MISMATCH
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "/b"])
def test_what_is_no_digest_becomes_no_file(tmp_path: Path, digest: str) -> None:
    """A digest from the wire becomes a file's name."""
    with pytest.raises(Fault, match="not a SHA-256"):
        Artifacts(tmp_path / "artifacts").receive(digest)


def test_damaged_and_unfinished_files_are_removed(tmp_path: Path) -> None:
    """What a name promises is checked once at each start."""
    artifacts = Artifacts(tmp_path)
    receive(artifacts, sha256(CONTENT), CONTENT)
    receive(artifacts, sha256(b"second"), b"second")
    (tmp_path / sha256(b"second")).write_bytes(b"secomd")
    (tmp_path / "unfinished.part").write_bytes(b"sec")
    assert artifacts.verify() == [sha256(b"second")]
    assert [path.name for path in tmp_path.iterdir()] == [sha256(CONTENT)]


def test_only_what_is_named_is_kept(tmp_path: Path) -> None:
    """The rest goes."""
    artifacts = Artifacts(tmp_path)
    for content in (b"a", b"b", b"c"):
        receive(artifacts, sha256(content), content)
    artifacts.keep_only({sha256(b"b")})
    assert [path.name for path in tmp_path.iterdir()] == [sha256(b"b")]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """No trace of the writing stays beside it."""
    path = tmp_path / "routes.pb"
    replace_durably(path, b"old")
    replace_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
