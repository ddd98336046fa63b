"""The log tells by which text a running site goes, and that its file has another one, before an answer leaves."""

import os

import pytest
from fedkit_client.audit import Trail, record
from fedkit_client.edits import read_whole
from fedkit_client.start import open_site

from fedkit.errors import ConfigError, DeploymentError
from fedkit.storage import audit
from tests.clients.test_audit import audit_key, said, site  # noqa: F401


@pytest.fixture
def trail(site):  # noqa: F811
    site.site_yaml.write_text("a: 1\n")
    made = Trail(site, "north", audit_key(site))
    made.started("0.1", site.site_yaml, digest(site))
    return made


def digest(folder):
    from fedkit_client.digest import file_digest

    return file_digest(folder.site_yaml)


def edits(folder):
    return [(kind, fields["digest"]) for kind, fields in said(folder) if kind in ("configured", "edited")]


def test_a_change_is_told_before_the_next_answer_is_let_go_of(trail, site):  # noqa: F811
    first = digest(site)
    site.site_yaml.write_text("a: 2\n")
    for number in (1, 2):
        trail.begin()
        trail.sealed("FK567", "train", "r", number)
    assert edits(site) == [("configured", first), ("edited", digest(site))]
    assert [kind for kind, _ in said(site)] == ["started", "configured", "edited", *["requested", "refused"] * 2]


def test_an_idle_site_tells_it_too_once_and_that_it_was_changed_back(trail, site):  # noqa: F811
    first = digest(site)
    trail.look()
    for text in ("a: 2\n", "a: 1\n"):
        site.site_yaml.write_text(text)
        trail.look()
        trail.look()
        os.utime(site.site_yaml)
        trail.look()
    site.site_yaml.unlink()
    trail.look()
    assert [kind for kind, _ in edits(site)] == ["configured", "edited", "edited", "edited"]
    assert edits(site)[2][1] == first and edits(site)[3][1] == ""


def test_a_change_of_equal_length_in_the_same_second_is_seen(trail, site):  # noqa: F811
    before = site.site_yaml.stat()
    trail.look()
    site.site_yaml.write_text("a: 9\n")
    os.utime(site.site_yaml, ns=(before.st_atime_ns, before.st_mtime_ns))
    trail.look()
    assert len(edits(site)) == 2


def test_what_cannot_be_logged_is_logged_later_and_lets_nothing_out(trail, site, monkeypatch):  # noqa: F811
    site.site_yaml.write_text("a: 2\n")
    with monkeypatch.context() as patched:
        patched.setattr(audit.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        trail.look()
        with pytest.raises(DeploymentError):
            trail.sealed("FK567", "train", "r", 1)
    assert len(edits(site)) == 1
    trail.sealed("FK567", "train", "r", 1)
    assert [kind for kind, _ in edits(site)] == ["configured", "edited"]


def test_the_log_tells_the_text_that_was_read_not_the_one_that_came_after(bench):
    """Between reading the file and the log's first line minutes can pass: tables are looked at."""
    made = bench()
    folder = made.folder
    opened = open_site(folder.site_yaml)
    assert opened.digest == digest(folder)
    folder.site_yaml.write_text(folder.site_yaml.read_text() + " ")
    record(folder, "joined", site="north")
    trail = Trail(folder, "north", audit_key(folder))
    trail.started("0.1", opened.path, opened.digest)
    assert edits(folder) == [("configured", opened.digest)]
    trail.sealed("FK567", "train", "r", 1)
    assert edits(folder)[1] == ("edited", digest(folder))


def test_a_file_that_is_being_written_is_not_read(bench, monkeypatch):
    folder = bench().folder
    real, texts = folder.site_yaml.read_text(), iter(range(1, 100))

    def reads(path):
        from fedkit.governance.site_file import read_site_file

        found = read_site_file(path)
        path.write_text(real + " " * next(texts))
        return found

    monkeypatch.setattr("fedkit_client.edits.read_site_file", reads)
    with pytest.raises(ConfigError, match="FK120"):
        read_whole(folder.site_yaml)
