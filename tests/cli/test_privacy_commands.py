import json

import pytest

TWO = ["--event", "0.05,1.0,1000", "--event", "0.1,1.5,300"]


def test_epsilon_composes_all_events_and_names_the_guarantee(cli):
    status, out, err = cli("privacy", "epsilon", *TWO, "--delta", "1e-5", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert len(out.splitlines()) == 1
    # Between the cost of the first event alone and the sum of both; RDP is the looser bound.
    assert 10.98 < found["epsilon"] == pytest.approx(13.2298, abs=0.01)
    assert found["epsilon"] < found["rdp_epsilon"] < 15
    assert (found["accountant"], found["adjacency"], found["delta"]) == ("pld", "add_remove", 1e-5)
    assert found["events"] == [
        {"sample_rate": 0.05, "noise_multiplier": 1.0, "steps": 1000},
        {"sample_rate": 0.1, "noise_multiplier": 1.5, "steps": 300},
    ]


def test_the_order_of_events_does_not_matter_and_split_events_cost_the_same(cli):
    def epsilon(*events):
        words = [word for event in events for word in ("--event", event)]
        return json.loads(cli("privacy", "epsilon", *words, "--delta", "1e-5", "--json")[1])["epsilon"]

    whole = epsilon("0.05,1,1000", "0.1,1.5,300")
    assert epsilon("0.1,1.5,300", "0.05,1,1e3") == whole
    assert epsilon("0.05,1,400", "0.1,1.5,300", "0.05,1,600", "0.05,1,0") == whole
    assert epsilon("0.05,1,0") == 0.0


def test_words_for_people_name_unit_adjacency_and_delta_and_never_round_down(cli):
    status, out, _ = cli("privacy", "epsilon", *TWO, "--delta", "1e-5")
    assert status == 0
    # 13.2298 is shown as 13.23, and 14.4140 as 14.42.
    for word in ("epsilon 13.23", "delta 1e-5", "one unit", "add or remove", "PLD", "RDP", "14.42", "1,000 steps"):
        assert word in out
    status, out, _ = cli(
        "privacy", "noise", "--epsilon", "3", "--delta", "1e-5", "--sample-rate", "0.0526", "--steps", "1900"
    )
    assert status == 0
    for word in ("3.29", "epsilon 3.00", "delta 1e-5", "one unit", "add or remove", "1,900 steps"):
        assert word in out


def test_noise_answers_with_a_multiplier_that_epsilon_confirms(cli):
    words = ["--epsilon", "3", "--delta", "1e-5", "--sample-rate", "0.0526", "--steps", "1900", "--json"]
    status, out, err = cli("privacy", "noise", *words)
    assert (status, err) == (0, "")
    found = json.loads(out)
    # 3.301 at q = 1/19, which is a little above .0526.
    assert found["noise_multiplier"] == pytest.approx(3.30, abs=0.01)
    assert found["noise_multiplier"] == round(found["noise_multiplier"], 4)
    assert 2.99 < found["epsilon"] <= 3.0
    assert (found["target_epsilon"], found["delta"], found["sample_rate"], found["steps"]) == (3.0, 1e-5, 0.0526, 1900)
    assert (found["accountant"], found["adjacency"]) == ("pld", "add_remove")
    event = f"0.0526,{found['noise_multiplier']},1900"
    again = json.loads(cli("privacy", "epsilon", "--event", event, "--delta", "1e-5", "--json")[1])
    assert again["epsilon"] == found["epsilon"]


GOOD = {"--epsilon": "3", "--delta": "1e-5", "--sample-rate": "0.05", "--steps": "100"}


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--epsilon", "0", "FK301"),
        ("--epsilon", "-1", "FK301"),
        ("--epsilon", "nan", "FK301"),
        ("--epsilon", "inf", "FK301"),
        ("--epsilon", "three", "FK301"),
        ("--delta", "0", "FK302"),
        ("--delta", "1", "FK302"),
        ("--delta", "-1e-5", "FK302"),
        ("--delta", "nan", "FK302"),
        ("--delta", "", "FK302"),
        ("--sample-rate", "0", "FK304"),
        ("--sample-rate", "1.01", "FK304"),
        ("--sample-rate", "nan", "FK304"),
        ("--steps", "0", "FK305"),
        ("--steps", "1.5", "FK305"),
        ("--steps", "-3", "FK305"),
        ("--steps", "nan", "FK305"),
        ("--steps", "inf", "FK305"),
        ("--steps", "1e12", "FK305"),
        *((option, None, "FK308") for option in GOOD),
    ],
)
def test_bad_options_of_noise_are_refused_by_name(cli, option, value, code):
    given = {**GOOD, option: value}
    words = [word for name, text in given.items() if text is not None for word in (name, text)]
    status, out, err = cli("privacy", "noise", *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"fedkit: {code}: {option}")
    assert "Remedy: " in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("event", "delta", "code", "said"),
    [
        ("0.05,1", "1e-5", "FK308", "2 parts"),
        ("0.05,1,10,10", "1e-5", "FK308", "4 parts"),
        ("", "1e-5", "FK308", "1 part,"),
        ("0.05,one,10", "1e-5", "FK303", "'one' is not a number"),
        ("0.05,0,10", "1e-5", "FK303", "noise multiplier 0"),
        ("0.05,-1,10", "1e-5", "FK303", "noise multiplier -1"),
        ("0.05,nan,10", "1e-5", "FK303", "noise multiplier nan"),
        ("0.05,1e-6,10", "1e-5", "FK303", "at least 0.1"),
        ("0.05,inf,10", "1e-5", "FK303", "noise multiplier inf"),
        ("0,1,10", "1e-5", "FK304", "sampling rate 0"),
        ("1.5,1,10", "1e-5", "FK304", "sampling rate 1.5"),
        ("nan,1,10", "1e-5", "FK304", "sampling rate nan"),
        ("0.05,1,2.5", "1e-5", "FK305", "steps 2.5"),
        ("0.05,1,-1", "1e-5", "FK305", "steps -1"),
        ("0.05,1,nan", "1e-5", "FK305", "steps nan"),
        ("0.05,1,10", "0", "FK302", "--delta 0"),
        ("0.05,1,10", "1", "FK302", "--delta 1"),
        (None, "1e-5", "FK308", "--event is not given"),
        ("0.05,1,10", None, "FK308", "--delta is not given"),
        # Within range and beyond arithmetic: refused as well, never a traceback.
        ("0.05,1e300,10", "1e-5", "FK303", "above 10000"),
        ("1e-300,1,1", "1e-5", "FK304", "below 1e-06"),
        ("0.05,1,10", "1e-300", "FK302", "below 1e-12"),
    ],
)
def test_bad_events_are_refused_by_name(cli, event, delta, code, said):
    words = [*(["--event", event] if event is not None else []), *(["--delta", delta] if delta is not None else [])]
    status, out, err = cli("privacy", "epsilon", *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"fedkit: {code}: ")
    assert said in err
    assert "Remedy: " in err


def test_all_problems_come_at_once_and_json_carries_them(cli):
    words = ["--event", "-1,nan,1.5", "--event", "0.05,1", "--delta", "1", "--json"]
    status, out, err = cli("privacy", "epsilon", *words)
    assert status == 2
    error = json.loads(out)["error"]
    assert error["code"] == "FK300"
    for said in ("5 problems", "sampling rate -1", "noise multiplier nan", "steps 1.5", "2 parts", "--delta 1"):
        assert said in error["message"]
        assert said in err


def test_a_budget_that_no_noise_reaches_is_refused_with_the_remedy(cli):
    status, _, err = cli(
        "privacy", "noise", "--epsilon", "1e-6", "--delta", "1e-9", "--sample-rate", "1", "--steps", "100"
    )
    assert status == 2
    assert "FK301" in err
    assert "Remedy: " in err


@pytest.mark.parametrize("words", [[], ["epsilon"], ["noise"]])
def test_help_has_an_example_of_that_command(cli, words):
    status, out, _ = cli("privacy", *words, "--help")
    assert status == 0
    assert f"Example: {' '.join(['fedkit', 'privacy', *words])}" in " ".join(out.split())
