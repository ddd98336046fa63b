"""Every kind of bad input: one clear message, exit status 2, no traceback, nothing trained."""

import json
import sys

import pytest

from tests.simulation.conftest import write_table


@pytest.fixture
def my(tmp_path):
    return write_table(tmp_path / "my", sizes={"north": 60, "south": 60})


def _refused(result, *words):
    status, out, err = result
    assert status == 2, err
    assert out == ""
    assert err.startswith("fedkit: FK")
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["heart_diseas"], ["heart_diseas", "did you mean 'heart_disease'"]),
        (["heart_disease", "privacy.epsilonn=1"], ["privacy.epsilonn", "privacy.epsilon"]),
        (["heart_disease", "strategy=fedadm"], ["fedadm", "fedadam"]),
        (["heart_disease", "strategy.etta=1"], ["strategy.etta"]),
        (["heart_disease", "privacy.epsilon=0"], ["privacy.epsilon", "0"]),
        (["heart_disease", "privacy.epsilon=-1"], ["privacy.epsilon", "-1"]),
        (["heart_disease", "privacy.epsilon=nan"], ["privacy.epsilon"]),
        (["heart_disease", "privacy.delta=0.01"], ["delta", "1 / 303"]),
        (["heart_disease", "privacy.delta=1"], ["delta"]),
        (["heart_disease", "privacy.noise_multiplier=1"], ["privacy.epsilon", "privacy.noise_multiplier"]),
        (["heart_disease", "training.batch_size=8"], ["privacy.sample_rate", "training.batch_size"]),
        (["heart_disease", "training.local_epochs=1"], ["training.local_steps", "training.local_epochs"]),
        (["heart_disease", "federation.num_rounds=0"], ["federation.num_rounds", "0"]),
        (["heart_disease", "federation.min_sites=9"], ["federation.min_sites", "9", "4 sites"]),
        (["heart_disease", "data.partition.sites=3"], ["partition"]),
        (["heart_disease", "data.source.path=nothing.csv", "data.source.kind=csv"], ["nothing.csv"]),
        (["heart_disease", "strategy=qfedavg"], ["qfedavg", "privacy"]),
        (["heart_disease", "data.split.kind=stratified"], ["stratified"]),
        (["heart_disease", "extra_name"], ["heart_disease", "extra_name"]),
        (["--config-dir", "missing", "data=icu"], ["missing"]),
    ],
)
def test_bad_words_are_refused(cli, tmp_path, words, said):
    _refused(cli("simulate", *words), *said)
    assert not (tmp_path / "runs").exists()


def test_all_problems_are_reported_at_once(cli):
    result = cli("simulate", "heart_disease", "privacy.epsilon=-1", "federation.num_rounds=0", "strateg=fedavg")
    _refused(result, "privacy.epsilon", "federation.num_rounds", "strateg", "3 problems")


def _rewrite(my, change):
    path = my / "data" / "icu.csv"
    text = change(path.read_text(encoding="utf-8"))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def _column(position, value):
    def change(text):
        lines = text.splitlines()
        rows = [line.split(",") for line in lines]
        for row in rows[1:]:
            row[position] = value
        return "\n".join(",".join(row) for row in rows) + "\n"

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", ["empty"]),
        (lambda text: text.splitlines()[0] + "\n", ["row"]),
        (lambda text: text.replace("heart_rate", "pulse", 1), ["heart_rate"]),
        (_column(3, ""), ["age", "missing"]),
        (_column(6, "0"), ["died", "class"]),
        (lambda text: text.replace(text.splitlines()[1].split(",")[3], "nan", 1), ["age"]),
        (lambda text: text.replace(text.splitlines()[1].split(",")[3], "inf", 1), ["age"]),
        (lambda text: b"\xef\xbb\xbf" + text.encode(), ["byte-order mark", "utf-8-sig"]),
        (lambda text: text.replace(",", ";"), ["delimiter"]),
        (lambda text: text.replace("north-1,", "Mühl,", 1).encode("latin-1"), ["latin-1"]),
    ],
    ids=["empty", "header", "column", "missing", "one-class", "nan", "infinity", "bom", "semicolons", "latin-1"],
)
def test_a_bad_table_is_refused(cli, my, tmp_path, change, said):
    _rewrite(my, change)
    _refused(cli("simulate", "--config-dir", str(my), "data=icu", "privacy.delta=0.001"), *said)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        (lambda text: b"\xef\xbb\xbf" + text.encode(), "data.source.encoding=utf-8-sig"),
        (lambda text: text.replace(",", ";"), "data.source.delimiter=';'"),
        (lambda text: text.replace("north-1,", "Mühl,", 1).encode("latin-1"), "data.source.encoding=latin-1"),
    ],
    ids=["bom", "semicolons", "latin-1"],
)
def test_the_remedy_that_the_message_names_works(cli, my, change, setting):
    _rewrite(my, change)
    words = ["privacy=none", "federation.num_rounds=1", "data=icu", setting]
    status, out, err = cli("simulate", "--config-dir", str(my), *words, "--json")
    assert status == 0, err
    assert set(json.loads(out)["sites"]) == {"north", "south"}


def test_json_puts_an_error_object_on_stdout(cli):
    status, out, err = cli("simulate", "heart_diseas", "--json")
    assert status == 2
    assert json.loads(out)["error"]["code"].startswith("FK")
    assert err


def test_json_prints_one_object_and_nothing_else(cli):
    status, out, err = cli("simulate", "heart_disease", "privacy=none", "federation.num_rounds=1", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["outcome"] == "complete"
    assert len(out.splitlines()) == 1


def test_no_credential_reaches_any_output(cli, my, tmp_path, monkeypatch):
    secret = "hunter2-very-secret"
    monkeypatch.setenv("ICU_URL", f"postgresql://clerk:{secret}@db.invalid/icu")
    text = (
        (my / "data" / "icu.yaml")
        .read_text()
        .replace(
            "source: {kind: csv, path: icu.csv}", "source: {kind: sql, url_env: ICU_URL, query: select * from icu}"
        )
    )
    (my / "data" / "icu.yaml").write_text(text)
    shown = cli("config", "show", "--config-dir", str(my), "data=icu", "privacy.delta=0.001")
    ran = cli("simulate", "--config-dir", str(my), "data=icu", "privacy.delta=0.001")
    inline = cli(
        "config", "show", "--config-dir", str(my), "data=icu", f"data.source.url=postgresql://clerk:{secret}@h/d"
    )
    assert shown[0] == 0
    assert ran[0] == 2
    assert inline[0] == 2
    for _, out, err in (shown, ran, inline):
        assert secret not in out + err


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_commands_refuse_folders_that_are_no_runs(cli, tmp_path):
    for words in (["report"], ["replay"], ["compare", str(tmp_path)]):
        _refused(cli(*words, str(tmp_path)), str(tmp_path))


def test_unknown_commands_of_the_deployed_parts_are_named(cli):
    for part in ("server", "client"):
        status, out, err = cli(part, "fly")
        assert (status, out) == (2, "") and "No such command 'fly'" in err
        assert cli(part, "--help")[0] == 0
    _refused(cli("client", "start", "nowhere/site.yaml"), "nowhere/site.yaml")


@pytest.mark.parametrize("words", [["nope", "--json"], ["simulate", "--jsn"], ["simulate", "--json", "--nope"]])
def test_words_that_no_command_knows_are_refused_as_json_too(cli, words):
    status, out, err = cli(*words)
    assert status == 2
    assert json.loads(out)["error"]["code"] == "FK002"
    assert "Usage: fedkit" in err


def test_a_run_with_something_tampered_with_is_refused(cli, tmp_path):
    _, out, _ = cli("simulate", "heart_disease", "privacy=none", "federation.num_rounds=1", "--json")
    run = tmp_path / json.loads(out)["run_dir"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("[1]\n")
    for command in ("report", "replay"):
        _refused(cli(command, str(run)), "metrics.jsonl")
    (run / "manifest.json").write_text('{"format": 1}')
    for command in ("report", "replay"):
        _refused(cli(command, str(run)), "manifest.json")
