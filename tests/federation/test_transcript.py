"""What a private site sends has one shape, whatever its records are: the shape is read by everybody, uncharged.

One table after the other stands behind the same declaration; the same requests, hostile ones among them, go to the
site's ClientApp. Everything of the replies but the noisy numbers must be equal.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from torch import nn

from fedkit.config.compose import compose
from fedkit.config.experiment import ExperimentConfig
from fedkit.data.declared import feature_names
from fedkit.data.load import load_site_dataset
from fedkit.errors import TrainingError
from fedkit.federation import wire
from fedkit.federation.client import make_client_app
from fedkit.federation.flower_internals import assign_id, local_identity
from fedkit.federation.gate import Gate
from fedkit.federation.public_codes import COMMON
from fedkit.federation.site import SiteRuntime
from fedkit.models import build
from fedkit.models.flat import pack
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.training.plan import local_plans
from fedkit.types import Float32, PrivacyPlan

DECLARED = 60
ROUNDS = 3
DECLARATION = """\
# fedkit simulate --config-dir my data=icu
# A hospital's own table, made up for the tests
name: icu
source: {{kind: csv, path: icu.csv}}
site_column: region
unit_column: patient
max_rows_per_unit: 4
records: {{north: {declared}}}
target: {{column: died, kind: {kind}, {target}}}
features:
  numeric: {{age: [0, 120], rate: [20, 250]}}
  categorical: {{gender: [Female, Male]}}
split: {{test_fraction: 0.25, seed: 43}}
subgroups: {{gender: [Female, Male], age: [50, 65]}}
"""
TARGETS = {
    "binary": "positive: [1]",
    "multiclass": "classes: [0, 1, 2]",
    "regression": "range: [0, 2]",
}
HEADER = "region,patient,age,rate,gender,died"
NORMAL = tuple(
    f"north,p{i},{20 + (i * 7) % 70},{60 + (i * 13) % 90},{'FM'[i % 2]}".replace(",F", ",Female").replace(",M", ",Male")
    + f",{(i // 2) % 3}"
    for i in range(50)
)
ONE = "north,new,40,80,Female,1"
LONG = tuple(f"north,long,{age},80,Female,1" for age in range(100))

NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "normal": NORMAL,
    "one unit less": NORMAL[1:],
    "one unit more": (*NORMAL, ONE),
    "as many as declared": (*NORMAL, *(f"north,q{i},40,80,Male,0" for i in range(DECLARED - len(NORMAL)))),
    "one unit less than declared": (*NORMAL, *(f"north,q{i},40,80,Male,0" for i in range(DECLARED - len(NORMAL) - 1))),
    "empty": (),
    "one unit": (ONE,),
    "of another site only": ("south,s,40,80,Female,1",),
    "one class": tuple(f"{row.rpartition(',')[0]},1" for row in NORMAL),
    "no target anywhere": tuple(f"{row.rpartition(',')[0]}," for row in NORMAL),
    "a unit with a hundred rows": (*NORMAL, *LONG),
    "extreme values": (*NORMAL, "north,new,1e300,-1e300,Female,1"),
    "infinity": (*NORMAL, "north,new,inf,1e999,Female,1"),
    "NaN": (*NORMAL, "north,new,NaN,nan,NaN,NaN"),
    "missing everything": (*NORMAL, "north,new,,,,"),
    "words for numbers": (*NORMAL, "north,new,forty,<script>,neither,perhaps"),
    "no id": (*NORMAL, "north,,40,80,Female,1", "north,null,40,80,Female,1"),
    "a feature missing everywhere": tuple(",".join([*row.split(",")[:3], "", *row.split(",")[4:]]) for row in NORMAL),
    "no feature anywhere": tuple(",".join([*row.split(",")[:2], "", "?", "x", row[-1]]) for row in NORMAL),
}
SETTINGS = [
    *("data=icu", "model=logistic", "privacy.noise=secure", "privacy.epsilon=null", "privacy.noise_multiplier=1.2"),
    *("privacy.evaluation.share=null", "privacy.evaluation.noise_multiplier=5", "privacy.evaluation.every=1"),
    *("training.local_steps=4", f"federation.num_rounds={ROUNDS}"),
]
CONTEXT = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


@dataclass(frozen=True)
class Bench:
    """One declaration of a hospital's own table; writes tables behind it and asks the site for everything."""

    folder: Path
    kind: str
    config: ExperimentConfig
    ledgers: list[Ledger] = field(default_factory=list)

    def transcript(self, rows: tuple[str, ...]) -> list[Message]:
        """The site's replies to all requests, in order."""
        self.write("\n".join((HEADER, *rows)) + "\n")
        load = functools.cache(self.runtime)
        app = make_client_app(lambda _: load())
        return [ask(app, kind, content) for kind, content in self.requests()]

    def write(self, text: str) -> None:
        (self.folder / "data" / "icu.csv").write_text(text, encoding="utf-8")

    def runtime(self) -> SiteRuntime:
        """As a deployed site makes it: from its own records and the declared constants."""
        dataset = load_site_dataset(self.config.data, "north", private=True)
        local = local_plans(self.config, dataset)
        model = build(self.config.model, dataset.input_shape, dataset.task.num_outputs, self.config.seed)
        sites = {site.name: site for site in dataset.sites}
        tested, specs = frozenset(local.tested), local.specs
        gates = {name: self.gate(plan.privacy) for name, plan in local.sites.items()}
        return SiteRuntime(model, dataset.task, self.config.seed, sites, local.sites, tested, specs, gates=gates)

    def gate(self, plan: PrivacyPlan) -> Gate:
        """A ledger that nothing was spent from yet."""
        ledger = Ledger.create(self.folder / f"{len(self.ledgers)}.sqlite")
        self.ledgers.append(ledger)
        ledger.file._sql.execute("PRAGMA synchronous = OFF")
        ledger.create_budget("icu", unit=plan.unit, limit=50.0, delta=plan.delta)
        gate = Gate(ledger, "icu", "r1", plan)
        gate.admit("icu")
        return gate

    @property
    def parameters(self) -> Float32:
        """The untrained model, of the declaration alone."""
        outputs = 3 if self.kind == "multiclass" else 1
        return pack(build(self.config.model, (len(feature_names(self.config.data)),), outputs, self.config.seed))

    def requests(self) -> list[tuple[str, RecordDict]]:
        """A whole run, and what no honest coordinator asks for."""
        model = self.parameters
        asked: list[tuple[str, RecordDict]] = [("query", RecordDict())]
        for number in range(1, ROUNDS + 1):
            asked.append(("train", wire.pack_model(model, number, 0.0)))
            asked.append(("evaluate", wire.pack_evaluation(model, number, histograms=True)))
        return [
            *asked,
            ("train", wire.pack_model(model, ROUNDS + 1, 0.0)),
            ("train", wire.pack_model(model[1:], 1, 0.0)),
            ("train", wire.pack_model(np.full_like(model, 1e30), 1, 0.0)),
            ("train", RecordDict()),
            ("evaluate", wire.pack_evaluation(model, ROUNDS + 1, histograms=True)),
            ("evaluate", wire.pack_evaluation(model, ROUNDS, histograms=False)),
            ("evaluate", wire.pack_evaluation(model[1:], ROUNDS, histograms=True)),
            ("evaluate", wire.pack_evaluation(np.full_like(model, np.nan), ROUNDS, histograms=True)),
            ("train", wire.pack_model(model, 1, -1.0)),
            ("train", wire.pack_model(model + 1, 1, 0.0)),
            ("evaluate", wire.pack_evaluation(model + 1, 1, histograms=True)),
            ("train", wire.pack_model(model, 1, 0.0)),
            ("query", RecordDict()),
        ]


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Callable[..., Bench]]:
    """The bench of a kind of target and a declared count; composed once each."""
    made: list[Bench] = []

    @functools.cache
    def make(kind: str = "binary", declared: int = DECLARED) -> Bench:
        folder = tmp_path_factory.mktemp(kind)
        (folder / "data").mkdir()
        told = DECLARATION.format(kind=kind, target=TARGETS[kind], declared=declared)
        (folder / "data" / "icu.yaml").write_text(told, encoding="utf-8")
        made.append(Bench(folder, kind, compose(None, SETTINGS, folder)))
        return made[-1]

    yield make
    for each in made:
        for ledger in each.ledgers:
            ledger.close()


@pytest.fixture(scope="module")
def normal(bench) -> Callable[[str], list[Any]]:
    """The shape of what a well-filled site sends, for each kind of target."""
    return functools.cache(lambda kind: [shape(reply) for reply in bench(kind).transcript(NORMAL)])


def ask(app, kind: str, content: RecordDict) -> Message:
    with local_identity():
        message = Message(content, 7, kind)
        assign_id(message)
        return app(message, CONTEXT)


def shape(reply: Message) -> Any:
    """All of a reply but the numbers in its arrays; a metric or a setting is no noise and stays."""
    if reply.has_error():
        return ("error", reply.error.code, reply.error.reason)
    content = reply.content
    arrays = [
        (record, name, array.dtype, array.shape, array.stype, len(array.data))
        for record, arrays in content.array_records.items()
        for name, array in arrays.items()
    ]
    metrics = {name: dict(record) for name, record in content.metric_records.items()}
    configs = {name: dict(record) for name, record in content.config_records.items()}
    length = recorddict_to_proto(content).ByteSize()
    return (reply.metadata.message_type, list(content), arrays, metrics, configs, length)


def noise(reply: Message) -> bytes:
    return b"".join(array.data for arrays in reply.content.array_records.values() for array in arrays.values())


OFTEN = ("normal", "empty", "NaN")
"""Tables that the fast tests look at for every kind of target; for a binary one they look at all."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[] if kind == "binary" or name in OFTEN else pytest.mark.slow)
        for kind in TARGETS
        for name in NEIGHBOURS
    ],
)
def test_shape_of_a_transcript_follows_from_the_declaration_alone(bench, normal, name, kind):
    assert [shape(reply) for reply in bench(kind).transcript(NEIGHBOURS[name])] == normal(kind)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_normal_transcript_is_a_whole_run_and_refuses_what_the_plan_lacks(normal, kind):
    errors = [part[2] if part[0] == "error" else None for part in normal(kind)]
    run = 1 + 2 * ROUNDS
    assert errors[:run] == [None] * run
    assert errors[run : run + 8] == ["FK535", "FK401", "FK536", COMMON, "FK535", "FK535", "FK401", "FK536"]
    assert errors[run + 8 :] == ["FK536", "FK347", "FK347", None, None]
    (query,) = normal(kind)[0][4].values()
    assert (query["site"], query["trains"], query["evaluates"]) == ("north", True, False)


def test_noise_is_the_only_difference_and_is_there_on_an_empty_site(bench):
    one, two = bench().transcript(()), bench().transcript(())
    for first, second in list(zip(one, two, strict=True))[1 : 1 + 2 * ROUNDS]:
        assert noise(first) != noise(second)


def test_site_with_more_than_it_declares_is_stopped_and_tells_nobody_why(bench):
    for units in (DECLARED + 1, 3 * DECLARED):
        rows = tuple(f"north,p{i},{20 + i % 70},80,Male,{i % 2}" for i in range(units))
        replies = bench().transcript(rows)
        assert [shape(reply) for reply in replies] == [("error", 2, COMMON)] * len(replies)


def test_site_with_one_unit_less_than_it_declares_says_so_in_its_own_log_alone(bench, normal, caplog):
    with caplog.at_level(logging.INFO, "fedkit.site"):
        replies = bench().transcript(NEIGHBOURS["one unit less than declared"])
    assert "north has 59 units; records declares 60: it trains with the declared constants" in caplog.messages
    assert [shape(reply) for reply in replies] == normal("binary")


def test_declaring_more_starts_a_stopped_site_with_the_answers_of_any_other(bench):
    rows = tuple(f"north,p{i},{20 + i % 70},80,Male,{i % 2}" for i in range(DECLARED + 1))
    one = [shape(reply) for reply in bench(declared=80).transcript(rows)]
    assert one == [shape(reply) for reply in bench(declared=80).transcript(NORMAL)]
    assert one[1][0] == "train"


@pytest.mark.parametrize(
    "text", ["region,patient\nnorth,1\n", f'{HEADER}\nnorth,1,"40\n', f"{HEADER}\nnorth,1\n", "\x00\x01"]
)
def test_file_that_is_no_table_gets_the_same_common_code(bench, text):
    bench().write(text)
    app = make_client_app(lambda _: bench().runtime())
    assert shape(ask(app, "query", RecordDict())) == ("error", 2, COMMON)


def test_a_failure_on_records_has_no_code_of_its_own(bench, monkeypatch):
    def explode(*_, **__):
        raise TrainingError("patient Jane Doe moved a buffer", code="FK404")

    bench().write("\n".join((HEADER, *NORMAL)) + "\n")
    runtime = bench().runtime()
    app = make_client_app(lambda _: runtime)
    with monkeypatch.context() as broken:
        broken.setattr("fedkit.privacy.dp_sgd.train_lots", explode)
        broken.setattr("fedkit.federation.site.cells_of", explode)
        for kind, content in bench().requests()[1:3]:
            assert shape(ask(app, kind, content)) == ("error", 2, COMMON)
    # What failed once has failed for ever, and says so in the same words; the next round is as good as any.
    for kind, content in bench().requests()[1:3]:
        assert shape(ask(app, kind, content)) == ("error", 2, COMMON)
    for kind, content in bench().requests()[3:5]:
        assert not ask(app, kind, content).has_error()


class Mixing(nn.Module):
    """Subtracts the mean of a batch: no clip holds what a record does to the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)

    def forward(self, x):
        return self.layer(x - x.mean(0))


def test_a_model_that_no_clip_can_hold_is_refused_alike_with_and_without_records(bench):
    told = []
    for rows in (NORMAL, ()):
        bench().write("\n".join((HEADER, *rows)) + "\n")
        runtime = replace(bench().runtime(), model=Mixing(len(feature_names(bench().config.data))))
        app = make_client_app(lambda _, runtime=runtime: runtime)
        told.append(shape(ask(app, "train", wire.pack_model(pack(runtime.model), 1, 0.0))))
    assert told == [("error", 2, "FK404")] * 2
