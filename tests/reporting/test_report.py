"""The page: whole for every kind of run, closed to the outside, honest about privacy and about the undefined."""

from __future__ import annotations

import errno
import json
import re
from functools import cache
from html.parser import HTMLParser

import pytest

from fedkit.errors import RunError
from fedkit.reporting.report import write_report
from tests.reporting.conftest import KINDS, edited, write

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes, ids and visible text of a page; refuses tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.ids, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """The page of a run of some kind as it was fabricated; written once."""

    @cache
    def made(kind):
        return write_report(write(tmp_path_factory.mktemp(kind), KINDS[kind])).read_text(encoding="utf-8")

    return made


@pytest.fixture(params=KINDS)
def html(request, page_of):
    return page_of(request.param)


def test_page_is_well_formed_closed_and_small(html):
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "iframe", "object", "embed", "link", "img", "form", "base"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset"):
            # The one link out of the page: the written claim, in the same folder.
            assert value == "privacy.md" or (value.startswith("#") and value[1:] in page.ids)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert all(target.lstrip("#") in page.ids for target in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html
    assert ("html", "lang", "en") in page.attributes
    assert len(html.encode()) < 400_000


def test_tables_and_figures_have_names(html):
    page = Page(html)
    assert page.tags.count("caption") == page.tags.count("table")
    pictures = [a for a in page.attributes if a[:2] == ("svg", "role")]
    assert len(pictures) == page.tags.count("title") - 1
    assert all(a[:2] == ("th", "scope") or a[1] != "scope" for a in page.attributes)


def test_equal_directories_give_equal_bytes(make_run, tmp_path):
    first = write_report(make_run("seeded", tmp_path / "a")).read_bytes()
    second = write_report(make_run("seeded", tmp_path / "b")).read_bytes()
    assert first == second
    assert write_report(make_run("seeded", tmp_path / "c", seed=7)).read_bytes() != first


def test_report_ignores_the_users_matplotlib_settings(make_run, tmp_path):
    import matplotlib

    plain = write_report(make_run("seeded", tmp_path / "a")).read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert write_report(make_run("seeded", tmp_path / "b")).read_bytes() == plain
        assert dict(matplotlib.rcParams) == before


def test_hostile_names_are_shown_but_never_run(page_of):
    html = page_of("hostile")
    page = Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert '<script>alert("s")</script>' in page.text
    assert "$x_{$ & \"quotes\" 'single'" in page.text
    assert "<img src=x onerror=alert(1)>" in page.text


def test_undefined_is_spelled_out_and_explained(page_of):
    html = page_of("seeded")
    row = re.search(r'<th scope="row">.*?switzerland</th>(.*?)</tr>', html, re.S)[1]
    cells = [" ".join(re.sub(r"<[^>]+>", "", c).split()) for c in re.findall(r"<td.*?</td>", row, re.S)]
    assert cells[:2] == ["30", "16"]
    assert cells[3:5] == ["– undefined", "– undefined"]
    assert 'title="undefined: it needs test rows of more than one class"' in row
    assert "Undefined at switzerland" in html
    assert "nan" not in Page(html).text.lower()


def test_seeded_noise_is_called_not_private(page_of):
    text = Page(page_of("seeded")).text
    sentence = "Noise was seeded for replay: this model is NOT private; with real noise the same plan would cost"
    assert f"{sentence} epsilon 2.98 at delta 1e-5 for one record at each site, add or remove adjacency" in text
    assert "differentially private" not in text


def test_only_secure_noise_is_called_private(page_of):
    text = Page(page_of("secure")).text
    assert "Private: differential privacy with real noise" in text
    assert "NOT private" not in text
    assert "epsilon 2.98 at delta 1e-5 for one record at each site, add or remove adjacency" in text


def test_without_a_mechanism_nothing_looks_private(page_of):
    text = Page(page_of("open")).text
    assert "Not private: no mechanism was used" in text
    assert "differentially private" not in text
    assert "Privacy plan of each site" not in text


def test_secure_noise_that_the_manifest_does_not_call_private_is_not(make_run):
    import json

    path = make_run("secure")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "private": False}))
    assert "Private: differential" not in Page(write_report(path).read_text()).text


def test_largest_epsilon_is_named_never_a_mean(make_run):
    import json

    path = make_run("secure")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["plan"]["va"]["epsilon"] = 4.5
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "epsilon 4.50 at delta 1e-5" in Page(write_report(path).read_text()).text


def test_suppressed_cell_shows_no_number(page_of):
    html = page_of("seeded")
    row = re.search(r">over 70</th>(.*?)</tr>", html, re.S)[1]
    assert re.sub(r"<[^>]+>", "", row).strip() == "suppressed (small cell)"


def test_baselines_stand_beside_the_federation(page_of):
    with_baselines = Page(page_of("seeded")).text
    assert "federated pooled local only federated pooled local only" in with_baselines
    assert "Beside the baselines" not in Page(page_of("secure")).text


def test_interrupted_run_says_how_far_it_came_and_what_it_cost(page_of):
    text = Page(page_of("interrupted")).text
    assert "interrupted" in text
    assert "Only 2 rounds of 15 ran, which would have cost up to epsilon 0.89" in text


def test_site_that_was_not_tested_counts_in_no_total(make_run):
    html = write_report(make_run("seeded", untested=("va",))).read_text()
    assert "not tested" in re.search(r"</svg>va</th>(.*?)</tr>", html, re.S)[1]
    overall = re.search(r'<tr class="overall">(.*?)</tr>', html, re.S)[1]
    assert "<td>486</td><td>209</td>" in overall


def test_notes_and_failures_are_shown(page_of):
    assert "0 of 4 sites answered" in Page(page_of("failed")).text
    assert "site switzerland left out of training" in Page(page_of("degraded")).text


def test_password_in_a_url_never_reaches_the_page(make_run):
    path = make_run("seeded")
    with (path / "config.yaml").open("a") as file:
        file.write("url: postgresql://ana:s3cret@db.hospital/icu\n")
    html = write_report(path).read_text()
    assert "s3cret" not in html
    assert "postgresql://ana:***@db.hospital/icu" in html


def test_replay_command_is_quoted_for_a_shell(page_of):
    text = Page(page_of("hostile")).text
    assert "fedkit replay 'runs/20261122-165900-<script>alert('\"'\"'n'\"'\"')<_script>'" in text


def test_unwritable_folder_is_named(make_run):
    path = make_run("failed")
    (path / "report.html").mkdir()
    with pytest.raises(RunError, match="cannot be written") as caught:
        write_report(path)
    assert caught.value.code == "FK614"


def test_counts_that_stood_in_are_said_and_so_are_exact_counts_and_fingerprints(make_run):
    for kind in ("seeded", "secure"):
        text = Page(write_report(make_run(kind, declared=False)).read_text()).text
        assert "The true counts stood in for declared ones and are not protected." in text
        assert "Counts of train and test, fingerprints of the arrays exact, simulation only" in text


@pytest.mark.parametrize("edit", [{"data": {"sites": [1]}}, {"plan": {"va": 3}}, {"local": {"va": None}}])
def test_a_manifest_of_another_shape_is_refused_in_one_sentence(make_run, edit):
    path = make_run("seeded")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | edit))
    with pytest.raises(RunError):
        write_report(path)


def test_a_full_disk_asks_for_space(make_run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fedkit.reporting.page.write_text", full)
    with pytest.raises(RunError, match="No space left") as caught:
        write_report(make_run("seeded"))
    assert "free space" in caught.value.remedy


LEDGERS = {"va": {"took": 0.1234, "left": 0.5, "limit": 3.0}, "hungary": {"took": 0.2, "left": 0.75, "limit": 8.0}}


def test_a_ledgers_shares_are_named_and_where_there_is_none_nobody_kept_count(page_of, make_run, tmp_path):
    what = "Sum over all runs on the same records"
    alone = Page(page_of("secure")).text
    assert f"{what} not accounted No ledger kept count" in alone
    path = edited(make_run("secure", tmp_path / "a"), ledger_run="heart-1a2b", ledger=LEDGERS)
    charged = Page(write_report(path).read_text()).text
    assert f"{what} within each site's budget Charged to each site's ledger as heart-1a2b" in charged
    assert "va: 12.34% taken, 50.00% left, hungary: 20.00% taken, 75.00% left" in charged
    # A run that was killed left no shares: its ledgers were charged all the same.
    killed = Page(write_report(edited(path, ledger={})).read_text()).text
    assert "ledger as heart-1a2b; `fedkit ledger show`" in killed
    assert "No ledger kept count" not in charged + killed
    seeded = Page(page_of("seeded")).text
    assert f"{what} not accounted This run promises nothing" in seeded


def test_patients_are_counted_beside_their_rows(make_run):
    path = make_run("secure")
    data = json.loads((path / "manifest.json").read_text())["data"]
    assert "486 training records" in Page(write_report(path).read_text()).text
    for facts in data["sites"].values():
        facts["train"] //= 2
    patients = sum(facts["train"] for facts in data["sites"].values())
    text = Page(write_report(edited(path, data=data | {"unit": "patient"})).read_text()).text
    assert f"486 training rows of {patients} patients" in text
    assert "training patients" not in text


def test_rows_left_out_are_not_sites_left_out(page_of, make_run, tmp_path):
    rows = ("5 rows have no patient_id and are left out", "north: 1 row beyond data.max_rows_per_unit=2 is left out")
    assert "Sites left out" not in Page(write_report(make_run("seeded", notes=rows)).read_text()).text
    assert "Sites left out" in Page(page_of("degraded")).text
    untested = ("va left out of testing: 4 test rows, at least 5 needed",)
    assert "Sites left out" in Page(write_report(make_run("seeded", tmp_path / "b", notes=untested)).read_text()).text


def test_the_plan_shows_the_evaluation_and_the_verdict_covers_it(page_of, make_run):
    text = Page(page_of("secure")).text
    assert "secure 3 at 5.4747 record" in text
    assert "All that a site's updates, histograms and the model reveal" in text
    path = make_run("seeded")
    plans = json.loads((path / "manifest.json").read_text())["plan"]
    for plan in plans.values():
        del plan["evaluation"]
    assert "seeded none record" in Page(write_report(edited(path, plan=plans)).read_text()).text


def test_the_claim_and_what_it_links_to_stand_beside_the_report(make_run):
    path = write_report(make_run("secure")).parent
    for name in ("privacy.md", "ledger.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", (path / name).read_text(encoding="utf-8"))
        assert links and all((path / link).is_file() for link in links)


def test_warnings_on_the_data_are_called_exact(make_run, tmp_path):
    path = make_run("secure")
    assert "Warnings on the data exact, simulation only" in Page(write_report(path).read_text()).text
    data = json.loads((path / "manifest.json").read_text())["data"]
    assert "Warnings on the data" not in Page(write_report(edited(path, data=data | {"warnings": []})).read_text()).text
