from __future__ import annotations

import io
import os
import stat
import tarfile
from contextlib import nullcontext

import pytest
from fedkit_server.archive import packed, unpack

from fedkit.errors import DeploymentError


def test_a_packed_run_is_unpacked_as_it_was_without_journal_and_links(tmp_path):
    run = tmp_path / "run"
    (run / "updates").mkdir(parents=True)
    (run / "journal").mkdir()
    (run / "journal" / "steps.jsonl").write_text("x")
    (run / "updates" / "journal").write_text("kept")
    (run / "result.json").write_text("{}")
    (run / "result.json").chmod(0o777)
    (run / "link").symlink_to("/etc/passwd")
    (tmp_path / "a.tar").write_bytes(b"".join(packed(run)))
    assert unpack(tmp_path / "a.tar", tmp_path / "out") == ["result.json", "updates/journal"]
    assert (tmp_path / "out" / "updates" / "journal").read_text() == "kept"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out" / "updates").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out" / "result.json").stat().st_mode) == 0o600


def _tar(path, *members):
    with tarfile.open(path, "w") as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"x") if member.size else None)


@pytest.mark.parametrize(
    "member",
    [
        ("../outside", tarfile.REGTYPE, ""), ("/tmp/outside-of-all", tarfile.REGTYPE, ""),
        ("a/../../b", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"), ("hard", tarfile.LNKTYPE, "x"), ("device", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
)  # fmt: skip
def test_nothing_lands_outside_and_no_link_or_device_is_made(tmp_path, member):
    inner = tmp_path / "inner"
    inner.mkdir()
    _tar(inner / "bad.tar", member)
    # What only has a slash in front lands inside.
    with nullcontext() if member[0].startswith("/") else pytest.raises(DeploymentError, match="FK713"):
        unpack(inner / "bad.tar", inner / "out")
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and (inner / "out") not in path.parents]
    assert outside == [inner / "bad.tar"]
    assert all(path.is_file() and not path.is_symlink() for path in (inner / "out").rglob("*") if not path.is_dir())


@pytest.mark.parametrize("content", [b"", b"no tar", b"x" * 5000])
def test_what_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DeploymentError, match="FK713"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path):
    _tar(tmp_path / "a.tar", ("x", tarfile.REGTYPE, ""))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(DeploymentError, match="FK704"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_file_that_grows_is_packed_as_it_was_and_one_that_shrinks_ends_the_tar(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "a").write_bytes(b"a" * 2**20)
    (run / "b").write_text("b")
    pieces = packed(run)
    found = [next(pieces), next(pieces)]
    with (run / "a").open("ab") as file:
        file.write(b"more")
    (tmp_path / "a.tar").write_bytes(b"".join([*found, *pieces]))
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert (tmp_path / "out" / "a").read_bytes() == b"a" * 2**20
    pieces = packed(run)
    next(pieces)
    os.truncate(run / "a", 5)
    with pytest.raises(OSError, match="shorter"):
        list(pieces)
