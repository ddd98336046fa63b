"""The command line's ``key=value``: parsed by Hydra's grammar, judged one by one, and spread out for a sweep."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from fedkit.config.build import Findings, field_types
from fedkit.config.experiment import ExperimentConfig, ModelConfig, StrategyConfig
from fedkit.config.locate import GROUPS, option_files, unknown_option
from fedkit.config.wording import shown, suggestion
from fedkit.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override


@dataclass(frozen=True)
class Overrides:
    """Overrides that Hydra can be given.

    Attributes:
        lines: as Hydra wants them; values are forced, so that the schema judges a key and not its presence in a file.
        choices: group to the option that the command line chose.
        values: dotted key to value, dictionaries flattened; what the command line itself says.
    """

    lines: tuple[str, ...]
    choices: Mapping[str, str]
    values: Mapping[str, Any]


def read_overrides(overrides: Sequence[str], folder: Path | None, found: Findings) -> Overrides:
    """Parse overrides and judge each by itself; a bad one is noted in ``found`` and left out."""
    lines: list[str] = []
    choices: dict[str, str] = {}
    values: dict[str, Any] = {}
    for text in overrides:
        override = _parse(text, found)
        if override is None or not _is_admitted(override, text, folder, found):
            continue
        key, value = override.key_or_group, override.value()
        if key in GROUPS:
            choices[key] = str(value)
            lines.append(f"{key}={value}")
        elif override.is_delete():
            lines.append(text)
        else:
            values.update(_flattened(key, value))
            lines.append(f"++{text.lstrip('+')}")
    # A group whose option is unknown stands at its default; what is said about its keys would only confuse.
    return Overrides(tuple(line for line in lines if not _follows(line, found)), choices, values)


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Spread Hydra's sweep syntax (``a=1,2``, ``a=choice(1,2)``, ``a=range(1,5)``) over its cells.

    Returns:
        One list of plain overrides a cell; the last swept key varies fastest. Equal cells appear once.

    Raises:
        ConfigError: an override cannot be parsed, or names no finite, ordered set of values.

    >>> expand_sweep(["privacy.epsilon=1,3", "seed=7"])
    [['privacy.epsilon=1', 'seed=7'], ['privacy.epsilon=3', 'seed=7']]
    """
    found = Findings()
    axes: list[list[str]] = []
    for text in overrides:
        override = _parse(text, found)
        if override is None:
            continue
        if not override.is_sweep_override():
            axes.append([text])
        elif not override.is_discrete_sweep() or not _is_ordered(override.value()):
            found.add(shown(text), "has no fixed order of values; list them: key=1,2,3, or use range(1,5)")
        else:
            cells = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
            axes.append(list(dict.fromkeys(cells)))
    if found.problems:
        raise ConfigError(found.problems, code="FK103")
    return [list(cell) for cell in product(*axes)]


def _is_ordered(value: Any) -> bool:
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

    return isinstance(value, (ChoiceSweep, RangeSweep)) and not value.shuffle


@cache
def _parser() -> OverridesParser:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def _parse(text: str, found: Findings) -> Override | None:
    from hydra.errors import HydraException

    try:
        return _parser().parse_override(text)
    except HydraException:
        # Hydra's own message repeats the whole value, and the value may be a database URL.
        cause = "write key=value" if "=" not in text else "put the value in quotes: 'key=\"value\"'"
        found.add(shown(text.partition("=")[0]), f"cannot be read; {cause}")
        return None


def _is_admitted(override: Override, text: str, folder: Path | None, found: Findings) -> bool:
    key = override.key_or_group
    before = len(found.problems)
    if override.package is not None or "/" in key:
        found.add(key, "cannot be given on the command line; choose options as strategy=fedadam")
    elif override.is_sweep_override():
        found.add(key, f"has several values in {shown(text)}; that is for fedkit sweep")
    elif key not in GROUPS:
        if problem := key_problem(key):
            found.add(key, problem)
    elif override.is_delete() or isinstance(override.value(), (dict, list)) or override.value() is None:
        found.add(key, f"takes the name of one option: {', '.join(option_files(key, folder))}")
    elif (option := str(override.value())) not in option_files(key, folder):
        found.problems.append(unknown_option(key, option, folder))
        found.bad.add(f"{key}.")
    return len(found.problems) == before


def key_problem(key: str) -> str | None:
    """Say what is wrong with a dotted key, None if the schema has a place for it.

    >>> key_problem("privacy.epsilom")
    "is unknown; did you mean 'privacy.epsilon'?"
    """
    hint: Any = ExperimentConfig
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if get_origin(hint) in (Union, types.UnionType):
            hint = next(arm for arm in get_args(hint) if arm is not type(None))
        if hint in (ModelConfig, StrategyConfig) or get_origin(hint) not in (None, tuple):
            return None  # named by the user: arguments, columns, sites; judged once the whole is known
        above = ".".join(parts[:depth])
        if not is_dataclass(hint):
            return f"is unknown; {above} holds one value"
        known = field_types(hint)  # type: ignore[arg-type]
        if part not in known:
            moved = [full for full in _keys(ExperimentConfig, "") if full.rpartition(".")[2] == parts[-1]]
            level = [f"{above}.{name}" if above else name for name in known]
            return f"is unknown; {suggestion(moved[0] if moved else '.'.join(parts[: depth + 1]), moved or level)}"
        hint = known[part]
    return None


def _keys(hint: Any, key: str) -> list[str]:
    """Return every dotted key of the schema."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(arm for arm in get_args(hint) if arm is not type(None))
    if not is_dataclass(hint) or hint in (ModelConfig, StrategyConfig):
        return [key]
    parts = field_types(hint).items()  # type: ignore[arg-type]
    return [full for name, inner in parts for full in _keys(inner, f"{key}.{name}" if key else name)]


def _flattened(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {name: leaf for part, inner in value.items() for name, leaf in _flattened(f"{key}.{part}", inner).items()}


def _follows(line: str, found: Findings) -> bool:
    return any(key.endswith(".") and line.lstrip("+~").startswith(key) for key in found.bad)
