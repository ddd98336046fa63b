import numpy as np
import pytest
from flwr.app import ConfigRecord

from fedkit.errors import FederationError
from fedkit.federation.request import Request, pack_request, unpack_request
from fedkit.federation.wire import WIRE_VERSION


def message(version):
    content = pack_request(Request("{}", "{}", ("{}",), np.zeros(3, np.float32)))
    content["config"] = ConfigRecord({**content["config"], "wire": version})
    return content


@pytest.mark.parametrize("version", [WIRE_VERSION, WIRE_VERSION - 1])
def test_a_message_of_this_version_or_of_the_one_before_is_taken(version):
    assert unpack_request(message(version), most_parameters=3).order == "{}"


@pytest.mark.parametrize("version", [WIRE_VERSION - 2, WIRE_VERSION + 1, 99, float(WIRE_VERSION), True, "1", b"1"])
def test_an_older_or_newer_one_is_refused_with_both_versions_and_what_to_do(version):
    with pytest.raises(FederationError, match="FK547") as refused:
        unpack_request(message(version), most_parameters=3)
    assert repr(version) in refused.value.message
    assert f"speaks {WIRE_VERSION} and the one before" in refused.value.message
    assert refused.value.remedy == "update the older side"
