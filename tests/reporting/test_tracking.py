"""What is mirrored of a run: what its folder holds and no more, each round once, whatever the tracker does."""

import json
import logging
import os
import struct
import subprocess
import sys

import pytest

from fedkit.errors import RunError
from fedkit.reporting.trackers import TRACKERS, open_tracker
from fedkit.reporting.tracking import Mirror, Told
from fedkit.runs.directory import CONFIG, MANIFEST, METRICS
from tests.reporting.conftest import Fabricated, write

PLANTED = "/secret/of/the/site.csv"


class Noted:
    """A tracker that remembers; ``broken`` ones raise."""

    def __init__(self):
        self.calls, self.broken = [], False

    def _note(self, *call):
        if self.broken:
            raise OSError("https://ann:hunter2@mlflow.example")
        self.calls.append(call)

    def begin(self, run, experiment):
        self._note("begin", run.name, experiment)
        return f"id of {run.name}"

    def facts(self, run, facts):
        self._note("facts", run, dict(facts))

    def scalars(self, run, step, values):
        self._note("scalars", run, step, dict(values))

    def end(self, run, outcome):
        self._note("end", run, outcome)

    def of(self, kind):
        return [call for call in self.calls if call[0] == kind]


@pytest.fixture
def noted():
    return Noted()


def made(tmp_path, **changes):
    return write(tmp_path / "runs", Fabricated(rounds=4, **changes))


def outcome(run, value):
    manifest = json.loads((run / MANIFEST).read_text()) | {"outcome": value}
    (run / MANIFEST).write_text(json.dumps(manifest))


def test_a_whole_run_is_told_round_by_round_as_its_folder_has_it(tmp_path, noted):
    run = made(tmp_path)
    assert Mirror(noted).catch_up(run)
    lines = {line["round"]: line for line in map(json.loads, (run / METRICS).read_text().splitlines())}
    told = {call[2]: call[3] for call in noted.of("scalars")[:-1]}
    assert list(told) == list(lines)
    for number, line in lines.items():
        assert told[number]["round/trained"] == len(line["trained"])
        assert {k: v for k, v in told[number].items() if k.startswith("epsilon/")} == {
            f"epsilon/{site}": value for site, value in line["epsilon"].items()
        }
        for site, metrics in line["sites"].items():
            for name, value in metrics.items():
                assert value is None or told[number][f"sites/{site}/{name}"] == value
    assert noted.of("scalars")[-1][3]["overall/auroc"] and noted.of("end") == [("end", f"id of {run.name}", "complete")]


def test_rounds_are_told_once_as_they_end_and_half_a_line_is_not_told(tmp_path, noted):
    run = made(tmp_path)
    whole = (run / METRICS).read_text()
    first = whole.splitlines(keepends=True)
    outcome(run, "running")
    mirror = Mirror(noted)
    for text in ("", first[0], first[0] + first[1][:20], first[0] + first[1], whole, whole):
        (run / METRICS).write_text(text)
        assert mirror.catch_up(run)
    steps = [call[2] for call in noted.of("scalars")]
    assert steps == sorted(set(steps)) and len(steps) == len(first) and noted.of("end") == []
    outcome(run, "degraded")
    assert mirror.catch_up(run) and mirror.catch_up(run)
    assert [call[2] for call in noted.of("end")] == ["degraded"] and len(noted.of("begin")) == 1


def test_a_mirror_that_is_told_where_it_was_goes_on_there(tmp_path, noted):
    run = made(tmp_path)
    Mirror(noted, {run.name: Told("before", round=2)}).catch_up(run)
    assert noted.of("begin") == [] and [call[2] for call in noted.of("scalars")][:-1] == [3, 4]
    assert {call[1] for call in noted.calls} == {"before"}


def test_what_the_config_says_of_data_seed_and_paths_is_not_told(tmp_path, noted):
    run = made(tmp_path)
    text = f"seed: 31415926\ndata: {{source: {{path: {PLANTED}}}}}\nprivacy: {{epsilon: 3, ledgers_dir: {PLANTED}}}\n"
    (run / CONFIG).write_text(text)
    Mirror(noted).catch_up(run)
    (_, _, facts), told = noted.of("facts")[0], repr(noted.calls)
    assert facts["privacy.epsilon"] == "3" and "statement" in facts
    assert PLANTED not in told and "31415926" not in told and str(tmp_path) not in told


def test_a_tracker_that_fails_stops_nothing_is_told_later_and_its_text_is_not_logged(tmp_path, noted, caplog):
    run, mirror = made(tmp_path), Mirror(noted)
    noted.broken = True
    with caplog.at_level(logging.WARNING):
        assert not mirror.catch_up(run)
    assert "OSError" in caplog.text and "hunter2" not in caplog.text
    noted.broken = False
    assert mirror.catch_up(run) and len(noted.of("end")) == 1


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_manifest_that_cannot_be_read_is_no_run_and_an_absent_one_is_not_yet(tmp_path, noted, text):
    run = made(tmp_path)
    (run / MANIFEST).write_bytes(text.encode("latin-1"))
    assert not Mirror(noted).catch_up(run)
    (run / MANIFEST).unlink()
    assert Mirror(noted).catch_up(run) and noted.calls == []


@pytest.mark.parametrize(("kind", "library"), [("mlflow", "mlflow"), ("tensorboard", "tensorboardX")])
def test_a_tracker_that_is_not_installed_is_refused_with_what_installs_it(monkeypatch, kind, library):
    monkeypatch.setattr(sys, "meta_path", [_Without(library), *sys.meta_path])
    for name in [each for each in sys.modules if each.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(RunError) as caught:
        open_tracker(kind, None)
    assert caught.value.code == "FK617" and caught.value.remedy == f"pip install 'fedkit[{kind}]'"
    assert library in caught.value.message


class _Without:
    def __init__(self, library):
        self.library = library

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_command_with_an_unknown_tracker_ends_before_it_makes_a_folder(tmp_path):
    words = ["simulate", "heart_disease", "--track", "wandb", f"runs_dir={tmp_path}/runs"]
    done = subprocess.run(
        [sys.executable, "-m", "fedkit", *words], capture_output=True, text=True, cwd=tmp_path, env=os.environ
    )
    assert done.returncode == 2 and "FK617" in done.stderr and "mlflow or tensorboard" in done.stderr
    assert list(tmp_path.iterdir()) == [] and set(TRACKERS) == {"mlflow", "tensorboard"}


def test_tensorboard_reads_what_was_told(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (pip install 'fedkit[tensorboard]')")
    run = made(tmp_path)
    assert Mirror(open_tracker("tensorboard", None)).catch_up(run)
    found, texts = events(run / "tensorboard")
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert [found["epsilon/va"][line["round"]] for line in lines] == pytest.approx(
        [line["epsilon"]["va"] for line in lines]
    )
    assert "overall/auroc" in found and any("statement" in each for each in texts)


def test_a_second_writer_within_the_same_second_writes_over_nothing(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (pip install 'fedkit[tensorboard]')")
    for step in range(3):
        tracker = open_tracker("tensorboard", tmp_path)
        tracker.scalars(str(tmp_path / "run"), step, {"epsilon/va": float(step)})
    assert events(tmp_path / "run")[0] == {"epsilon/va": {0: 0.0, 1: 1.0, 2: 2.0}}


def events(folder):
    """Tag to step to value, and texts, of all files of events: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found, texts = {}, []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            for value in event.summary.value:
                if value.HasField("tensor"):
                    texts += [each.decode() for each in value.tensor.string_val]
                else:
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found, texts


def test_mlflow_has_what_was_told_and_nothing_of_whose_machine_it_is(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed (pip install 'fedkit[mlflow]')")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = made(tmp_path)
    tracker = open_tracker("mlflow", tmp_path)
    mirror = Mirror(tracker)
    assert mirror.catch_up(run)
    id_ = mirror.told[run.name].id
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    history = {each.step: each.value for each in tracker.client.get_metric_history(id_, "epsilon/va")}
    assert history == {line["round"]: line["epsilon"]["va"] for line in lines}
    kept = tracker.client.get_run(id_)
    assert kept.info.status == "FINISHED" and "statement" in kept.data.params
    assert kept.data.tags == {"fedkit.run": run.name, "fedkit.outcome": "complete", "mlflow.runName": run.name}
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_an_mlflow_server_that_is_not_there_is_found_before_a_run_and_its_password_is_not_told(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed (pip install 'fedkit[mlflow]')")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    with pytest.raises(RunError, match="FK617") as caught:
        open_tracker("mlflow", tmp_path)
    assert "hunter2" not in str(caught.value) and "MLFLOW_TRACKING_URI" in str(caught.value)
