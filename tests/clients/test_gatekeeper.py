"""Every message passes the site's checks, in order; what is refused is answered by a code and costs nothing."""

import base64
import dataclasses
import json
import time

import numpy as np
import pytest
from fedkit_client import gatekeeper
from fedkit_client.remembered import MOST_BEGUN

from fedkit.federation import envelope, statements, wire
from fedkit.federation.order import parameters_digest
from fedkit.storage.keys import new_signing_key
from tests.clients.coordinator import RECORDS, SITE, UNPROTECTED, Coordinator, experiment, model

SIZE = 5


def _train(bench, number=1, job=None, **changes):
    job = job or bench.coordinator.job()
    return bench.coordinator.request(job, "train", number, model(SIZE), **changes)


def _sealed(bench, kind, payload, key, **changes):
    values = {**json.loads(payload), **changes}
    values.pop("wire")
    return envelope.seal(kind, values, key).text


def test_an_order_is_answered_with_the_model_s_update_and_charged_once(bench):
    made = bench()
    request = _train(made)
    reply = made.keeper.answer("train", request)
    update = wire.unpack_update(reply, SITE, SIZE)
    spent = made.charged()
    assert spent > 0 and update.weight == 0.75 * RECORDS
    again = made.keeper.answer("train", request)
    assert again == reply and made.charged() == spent


def test_a_stored_answer_reads_no_record(bench, monkeypatch):
    made = bench()
    request = _train(made)
    reply = made.keeper.answer("train", request)
    (made.folder.path / "table.csv").unlink()
    assert made.keeper.answer("train", request) == reply


def test_an_evaluation_gives_noisy_histograms(bench):
    made = bench()
    job = made.coordinator.job()
    made.keeper.answer("train", _train(made, job=job))
    reply = made.keeper.answer("evaluate", made.coordinator.request(job, "evaluate", 1, model(SIZE)))
    assert len(wire.unpack_histograms(reply, 16)) == 16


def test_the_end_frees_the_hold_and_nothing_is_trained_after_it(bench):
    made = bench()
    job = made.coordinator.job()
    made.keeper.answer("train", _train(made, job=job))
    end = made.coordinator.request(job, "end", 1, model(0))
    assert not isinstance(made.keeper.answer("query", end), str)
    assert not isinstance(made.keeper.answer("query", end), str)
    assert made.keeper.answer("train", _train(made, 2, job)) == "FK543"


def _by_a_stranger(bench):
    stranger = new_signing_key()
    job = bench.coordinator.job()
    order = bench.coordinator.order(job, "train", 1, model(SIZE), key=stranger)
    return _train(bench, job=job, order=order.text)


def _altered_job(bench):
    job = bench.coordinator.job()
    changed = envelope.Signed(job.payload.replace('"num_rounds":5', '"num_rounds":9'), job.key, job.signature)
    return dataclasses.replace(_train(bench, job=job), job=changed.text)


def _unsigned_job(bench):
    request = _train(bench)
    values = json.loads(request.job)
    return dataclasses.replace(
        request, job=json.dumps({**values, "signature": base64.b64encode(bytes(64)).decode()}, separators=(",", ":"))
    )


def _job_by_the_coordinator(bench):
    request = _train(bench)
    payload = json.loads(request.job)["payload"]
    return dataclasses.replace(request, job=_sealed(bench, "job", payload, bench.coordinator.key))


def _job_by_a_viewer(bench):
    viewer, coordinator = new_signing_key(), bench.coordinator
    coordinator.keyring = statements.add(
        coordinator.keyring, "vi", "viewer", viewer.public, coordinator.root, time.time()
    )
    request = _train(bench)
    payload = json.loads(request.job)["payload"]
    return dataclasses.replace(request, job=_sealed(bench, "job", payload, viewer, submitter="vi"))


def _other_federation(bench):
    other = Coordinator(bench.coordinator.folder / "other")
    job = other.job()
    return dataclasses.replace(_train(bench), job=job.text, order=other.order(job, "train", 1, model(SIZE)).text)


def _job_of_another_federation(bench):
    request = _train(bench)
    payload = json.loads(request.job)["payload"]
    text = _sealed(bench, "job", payload, bench.coordinator.root, federation="sha256:" + "0" * 64)
    return dataclasses.replace(request, job=text)


def _other_job(bench):
    return dataclasses.replace(_train(bench), job=bench.coordinator.job("run-2").text)


def _expired_order(bench):
    job = bench.coordinator.job()
    request = _train(bench, job=job)
    payload = json.loads(request.order)["payload"]
    text = _sealed(bench, "order", payload, bench.coordinator.key, issued_at=int(time.time()) - 900,
                   expires_at=int(time.time()) - 1)  # fmt: skip
    return dataclasses.replace(request, order=text)


def _round_beyond_the_job(bench):
    request = _train(bench)
    payload = json.loads(request.order)["payload"]
    return dataclasses.replace(request, order=_sealed(bench, "order", payload, bench.coordinator.key, round=6))


def _forked_keyring(bench):
    other = Coordinator(bench.coordinator.folder / "fork", ca=bench.coordinator.ca)
    return _train(bench, keyring=other.keyring.statements)


def _older_keyring(bench):
    return _train(bench, keyring=bench.coordinator.keyring.statements[:1])


def _other_parameters(bench):
    return dataclasses.replace(_train(bench), parameters=model(SIZE, 1.0))


def _ten_times_the_parameters(bench):
    return dataclasses.replace(_train(bench), parameters=model(10 * SIZE))


def _signed_for_ten_times(bench):
    job = bench.coordinator.job()
    return bench.coordinator.request(job, "train", 1, model(10 * SIZE))


def _not_a_number(bench):
    parameters = model(SIZE, np.nan)
    return bench.coordinator.request(bench.coordinator.job(), "train", 1, parameters)


def _config_with(bench, **changes):
    request = _train(bench)
    payload = json.loads(json.loads(request.job)["payload"])
    config = payload["config"]
    for path, value in changes.items():
        inner = config
        *parts, last = path.split("__")
        for part in parts:
            inner = inner[part]
        inner[last] = value
    job = envelope.seal("job", {k: v for k, v in payload.items() if k != "wire"}, bench.coordinator.root)
    order = json.loads(json.loads(request.order)["payload"]) | {"job": job.digest}
    order.pop("wire")
    return dataclasses.replace(request, job=job.text, order=envelope.seal("order", order, bench.coordinator.key).text)


def _huge_job(bench):
    return dataclasses.replace(_train(bench), job='{"payload":"' + "a" * (5 << 20) + '"}')


def _deep_order(bench):
    return dataclasses.replace(_train(bench), order="[" * 100_000)


HOSTILE = {
    "an order by a stranger": (_by_a_stranger, "FK541"),
    "an altered job": (_altered_job, "FK541"),
    "an unsigned job": (_unsigned_job, "FK541"),
    "a job by the coordinator": (_job_by_the_coordinator, "FK541"),
    "a job by a viewer": (_job_by_a_viewer, "FK541"),
    "another federation's order and job": (_other_federation, "FK541"),
    "a job for another federation": (_job_of_another_federation, "FK542"),
    "an order for another job": (_other_job, "FK542"),
    "an expired order": (_expired_order, "FK543"),
    "a round that the job has not": (_round_beyond_the_job, "FK542"),
    "a keyring of another root": (_forked_keyring, "FK544"),
    "an older keyring": (_older_keyring, "FK544"),
    "other parameters": (_other_parameters, "FK545"),
    "ten times the parameters": (_ten_times_the_parameters, "FK545"),
    "an order for ten times the parameters": (_signed_for_ten_times, "FK401"),
    "NaN": (_not_a_number, "FK536"),
    "a path in the config": (
        lambda bench: _config_with(bench, data__source={"kind": "csv", "path": "/etc/passwd"}), "FK546"),
    "an interpolation": (
        lambda bench: dataclasses.replace(_train(bench), job=_train(bench).job.replace("icu", "${HOME}")), "FK540"),
    "a folder in the config": (lambda bench: _config_with(bench, ledgers_dir="/tmp/x"), "FK546"),
    "an import in the config": (lambda bench: _config_with(bench, model={"name": "os.system"}), "FK101"),
    "seeded noise": (lambda bench: _config_with(bench, privacy__noise="seeded"), "FK546"),
    "no privacy": (
        lambda bench: _train(bench, job=bench.coordinator.job("p", experiment(*UNPROTECTED))), "FK568"),
    "a huge job": (_huge_job, "FK540"),
    "an abyss": (_deep_order, "FK540"),
    "no text at all": (lambda bench: dataclasses.replace(_train(bench), order="", job=""), "FK540"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_gets_a_code_reads_nothing_and_costs_nothing(bench, name, monkeypatch):
    made = bench()
    build, code = HOSTILE[name]
    request = build(made)
    before = made.charged()

    def read(*_args, **_kwargs):
        raise AssertionError("a record was read")

    monkeypatch.setattr("fedkit.data.load.load_site_dataset", read)
    assert made.keeper.answer("train", request) == code
    assert made.charged() == before


def test_two_different_requests_for_one_round_get_one_answer(bench):
    made = bench()
    job = made.coordinator.job()
    made.keeper.answer("train", _train(made, job=job))
    spent = made.charged()
    other = made.coordinator.request(job, "train", 1, model(SIZE, 0.5))
    assert made.keeper.answer("train", other) == "FK347"
    assert made.charged() == spent


def test_an_older_round_that_was_never_answered_is_refused(bench):
    made = bench()
    job = made.coordinator.job()
    made.keeper.answer("train", _train(made, 3, job))
    spent = made.charged()
    assert made.keeper.answer("train", _train(made, 2, job)) == "FK543"
    assert made.charged() == spent


class _Killed(BaseException):
    """Nothing at the site catches it, as nothing catches a kill."""


def test_a_round_that_is_never_answered_is_begun_so_often_and_charged_once(bench, monkeypatch):
    made = bench()
    job, work, begun = made.coordinator.job(), gatekeeper._work, []

    def expired(*_):
        begun.append(made.charged())
        raise _Killed

    monkeypatch.setattr(gatekeeper, "_work", expired)
    for _ in range(MOST_BEGUN):
        with pytest.raises(_Killed):
            made.keeper.answer("train", _train(made, 1, job))
    assert made.keeper.answer("train", _train(made, 1, job)) == "FK581"
    assert len(begun) == MOST_BEGUN
    monkeypatch.setattr(gatekeeper, "_work", work)
    assert made.keeper.answer("train", _train(made, 1, job)) == "FK581", "the site's own memory says so"
    assert not isinstance(made.keeper.answer("train", _train(made, 2, job)), str)
    # What was answered is given again as often as it is asked for.
    answers = [made.keeper.answer("train", _train(made, 2, job)) for _ in range(MOST_BEGUN + 1)]
    assert not any(isinstance(each, str) for each in answers)


def test_a_run_s_name_belongs_to_one_job(bench):
    made = bench()
    made.keeper.answer("train", _train(made))
    other = made.coordinator.job(config=experiment("seed=7"))
    assert made.keeper.answer("train", _train(made, 2, other)) == "FK542"


def test_a_revocation_that_was_seen_stays(bench):
    made = bench()
    coordinator, user = made.coordinator, new_signing_key()
    coordinator.keyring = with_user = statements.add(
        coordinator.keyring, "bo", "operator", user.public, coordinator.root, time.time()
    )
    job = coordinator.job(key=user, submitter="bo")
    request = _train(made, job=job)
    assert not isinstance(made.keeper.answer("train", request), str)
    coordinator.keyring = statements.revoke(with_user, "bo", coordinator.root, time.time())
    revoked = dataclasses.replace(request, keyring=coordinator.keyring.statements)
    assert made.keeper.answer("train", revoked) == "FK541"
    assert made.keeper.answer("train", request) == "FK544"


def test_an_unprotected_run_needs_the_site_s_word_and_spends_nothing(bench):
    made = bench(data={"allow_unprotected": True, "strategies": ["fedavg", "qfedavg"]})
    job = made.coordinator.job(config=experiment(*UNPROTECTED))
    update = wire.unpack_update(made.keeper.answer("train", _train(made, job=job)), SITE, SIZE)
    assert update.weight > 0 and made.charged() == 0
    # Only one strategy reads the training loss.
    assert update.metrics == {}
    reader = made.coordinator.job(config=experiment(*UNPROTECTED, "strategy=qfedavg"), run="run-2")
    assert "train_loss" in wire.unpack_update(made.keeper.answer("train", _train(made, job=reader)), SITE, SIZE).metrics
    rows, found = wire.unpack_metrics(
        made.keeper.answer("evaluate", made.coordinator.request(job, "evaluate", 1, model(SIZE)))
    )
    assert rows > 0 and "accuracy" in found
    made.keeper.answer("train", _train(made, 2, job))
    assert made.keeper.answer("train", _train(made, 1, job)) == "FK543"


def test_a_failure_on_records_says_nothing_and_its_text_stays_in_the_log(bench, caplog):
    made = bench()
    (made.folder.path / "table.csv").write_text("patient Jane Doe\n1\n")
    assert made.keeper.answer("train", _train(made)) == "FK500"
    assert made.charged() == 0


def test_plans_are_made_once_and_are_the_same_when_read_back(bench, monkeypatch):
    made = bench()
    config = experiment("privacy.noise_multiplier=null", "privacy.epsilon=3")
    job = made.coordinator.job(config=config)
    assert not isinstance(made.keeper.answer("train", _train(made, job=job)), str)
    monkeypatch.setattr("fedkit_client.plans.declared_plans", lambda *_: pytest.fail("made again"))
    assert not isinstance(made.keeper.answer("train", _train(made, 2, job)), str)


def test_the_order_s_digest_is_the_parameters_own(bench):
    made = bench()
    request = _train(made)
    payload = json.loads(json.loads(request.order)["payload"])
    assert payload["parameters"] == parameters_digest(model(SIZE))
