import json
from dataclasses import asdict, replace

import pytest

from fedkit.errors import FederationError
from fedkit.federation.envelope import read, seal
from fedkit.federation.offer import OfferedData, make_offer, open_offer
from fedkit.storage.keys import new_signing_key
from tests.federation.signers import NOW

KEY, OTHER = new_signing_key(), new_signing_key()
DATA = OfferedData(303, "record", 1e-5, 3.0, ("logistic",), ("fedavg",), False, "0" * 64)
TEXT = make_offer("cleveland", "0.1.0", {"heart_disease": DATA}, KEY, NOW).text
PAYLOAD = json.loads(read(TEXT).payload)


def refused(text, public=KEY.public, site="cleveland", now=NOW):
    with pytest.raises(FederationError) as caught:
        open_offer(text, public, site, now)
    return caught.value.code


def signed(**changes):
    return seal("offer", {**{key: value for key, value in PAYLOAD.items() if key != "wire"}, **changes}, KEY).text


def test_an_offer_is_opened_as_it_was_made():
    found = open_offer(TEXT, KEY.public, "cleveland", NOW)
    assert (found.site, found.version, dict(found.datasets)) == ("cleveland", "0.1.0", {"heart_disease": DATA})


def test_an_offer_is_its_sites_and_of_its_time():
    assert refused(TEXT, OTHER.public) == "FK541"
    assert refused(TEXT, site="hungary") == "FK542"
    assert refused(TEXT, now=NOW - 302) == "FK543"


@pytest.mark.parametrize(
    "changes",
    [
        {"records": 0}, {"records": 1.5}, {"records": True}, {"unit": "row"}, {"delta": 0}, {"delta": 1},
        {"max_epsilon": 0}, {"models": "mlp"}, {"models": [1]}, {"strategies": ["<b>"]}, {"unprotected": 0},
        {"declaration": "x"}, {"path": "/data"},
    ],
)  # fmt: skip
def test_a_data_set_out_of_its_bounds_is_refused(changes):
    data = {**json.loads(json.dumps(asdict(DATA))), **changes}
    assert refused(signed(datasets={"heart_disease": data})) == "FK540"


def test_an_offer_is_bounded():
    data = json.loads(json.dumps(asdict(DATA)))
    assert refused(signed(datasets={f"d{number}": data for number in range(101)})) == "FK540"
    assert refused(signed(datasets={"a b": data})) == "FK540"
    assert refused(signed(version="<script>")) == "FK540"
    with pytest.raises(FederationError):
        make_offer("cleveland", "0.1.0", {"d": replace(DATA, delta=2.0)}, KEY, NOW)
