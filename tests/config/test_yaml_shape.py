import pytest

from fedkit.config.compose import compose
from fedkit.errors import ConfigError

BOMB = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "uses the alias"),
        ("a: &a {b: *a}\n", "uses the alias"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested more than 20 deep"),
        ("a: " + "x" * 1_000_001, "more than 1000000 bytes"),
    ],
    ids=["bomb", "self", "deep", "long"],
)
@pytest.mark.parametrize("where", ["data/icu.yaml", "experiments/icu/experiment.yaml"])
def test_a_file_that_could_eat_the_memory_is_refused(tmp_path, text, said, where):
    path = tmp_path / where
    path.parent.mkdir(parents=True)
    path.write_text(text)
    name, overrides = ("icu", []) if "experiments" in where else (None, ["data=icu"])
    with pytest.raises(ConfigError, match=said):
        compose(name, overrides, tmp_path)
