import numpy as np
import pytest
from flwr.app import Error, RecordDict

from fedkit.config.compose import compose
from fedkit.errors import FederationError
from fedkit.federation.flower_internals import local_identity
from fedkit.simulation.grid import InProcessGrid
from fedkit.simulation.local import run_local
from fedkit.simulation.prepare import prepare


class Sites:
    """Answers with a site's own name; counts what was asked together."""

    sites = {f"s{k}": None for k in range(5)}

    def __init__(self):
        self.batches = []

    def answer_query(self, name):
        return RecordDict()

    def answer_train(self, names, content):
        self.batches.append((list(names), content))
        return {name: RecordDict() for name in names if name != "s3"}

    def answer_evaluate(self, name, content):
        if name == "s1":
            raise FederationError("no", code="FK535")
        return RecordDict()


def nodes(grid):
    return {name: node for node, name in grid.nodes.items()}


def test_sites_that_are_asked_together_with_one_content_are_one_batch():
    runtime = Sites()
    grid, one, other = InProcessGrid(runtime), RecordDict(), RecordDict()
    at = nodes(grid)
    asked = [(at["s0"], one), (at["s1"], other), (at["s2"], one), (at["s3"], one)]
    found = grid.answers(asked, "train")
    assert [names for names, _ in runtime.batches] == [["s0", "s2", "s3"], ["s1"]]
    assert [content is one for _, content in runtime.batches] == [True, False]
    assert [isinstance(each, RecordDict) for each in found] == [True, True, True, False]
    assert isinstance(found[3], Error) and found[3].reason == "FK524"


def test_a_refusal_is_a_code_and_stops_nobody_else():
    grid = InProcessGrid(Sites())
    found = grid.answers([(node, RecordDict()) for node in grid.nodes], "evaluate")
    assert [getattr(each, "reason", None) for each in found] == [None, "FK535", None, None, None]


def test_messages_are_answered_when_they_are_pulled_and_not_before():
    runtime = Sites()
    grid = InProcessGrid(runtime, order=lambda replies: replies[::-1])
    assert grid.answers is None
    with local_identity():
        content = RecordDict()
        ids = list(
            grid.push_messages([grid.create_message(content, "train", node, "", ttl=9.0) for node in grid.nodes])
        )
        assert runtime.batches == [] and len(set(ids)) == 5
        first = list(grid.pull_messages(ids[:2]))
        assert [names for names, _ in runtime.batches] == [["s0", "s1"]]
        assert [reply.metadata.reply_to_message_id for reply in first] == ids[1::-1]
        assert list(grid.pull_messages(ids[:2])) == []
        assert [reply.has_error() for reply in grid.pull_messages(ids[2:])] == [False, True, False]


@pytest.mark.parametrize("words", [[], ["privacy=none"], ["strategy=fedmedian"], ["privacy.noise=seeded", "seed=3"]])
def test_with_and_without_messages_it_is_the_same_run(words):
    prepared = prepare(compose("heart_disease", ["federation.num_rounds=3", "training.local_steps=2", *words]))
    told = [], []
    with_messages = run_local(prepared, lambda report, *_: told[0].append(report), order=list)
    without = run_local(prepared, lambda report, *_: told[1].append(report))
    assert np.array_equal(with_messages.parameters, without.parameters) and with_messages.notes == without.notes
    plain = [
        [(r.round, r.trained, r.failed, r.sites, r.epsilon, r.digest, r.histograms) for r in each] for each in told
    ]
    assert plain[0] == plain[1]
