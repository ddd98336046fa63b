"""What ``federation=flower`` writes, without starting a process."""

import dataclasses
import json
from contextlib import contextmanager

import fedkit.simulation.flower as flower
from fedkit.config.compose import compose
from fedkit.federation.rounds import Finish
from fedkit.simulation.prepare import prepare


def test_a_site_name_never_becomes_a_path(tmp_path, monkeypatch):
    prepared = prepare(compose("heart_disease", ["privacy=none"]))
    first, *others = prepared.dataset.sites
    escaping = dataclasses.replace(first, name="../../../escaped")
    prepared = dataclasses.replace(prepared, dataset=dataclasses.replace(prepared.dataset, sites=(escaping, *others)))
    started = []

    @contextmanager
    def process(command, home, log):
        started.append((command, home, log))
        yield None

    monkeypatch.setattr(flower, "_process", process)
    monkeypatch.setattr(flower, "_start_link", lambda *_: "127.0.0.1:1")
    monkeypatch.setattr(flower, "submit_run", lambda *_, **__: 1)
    monkeypatch.setattr(flower, "_follow", lambda *_: Finish(None, "complete", 0))
    flower.run_flower(prepared, lambda *_: None, tmp_path)
    assert [log for _, _, log in started] == [tmp_path / "logs" / f"node-{index}.log" for index in range(4)]
    assert [home.name for _, home, _ in started] == [f"node-{index}" for index in range(4)]
    assert escaping.name.encode().hex() in started[0][0][-1]
    names = json.loads((tmp_path / "logs" / "sites.json").read_text())
    assert names["node-0.log"] == "../../../escaped"
    assert list(names) == [log.name for _, _, log in started]
