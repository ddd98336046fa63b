"""Plain values -> the frozen ``ExperimentConfig``, with every unknown key and wrong type noted on the way."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from fedkit.config.arguments import MODEL_ARGUMENTS, STRATEGY_ARGUMENTS, Argument
from fedkit.config.experiment import DataConfig, ExperimentConfig, ModelConfig, StrategyConfig
from fedkit.config.wording import shown, suggestion

UNSET = "???"
"""How OmegaConf writes a value that nobody gave."""

PYTHON = "python"
"""The name under which a run records a model or a strategy that was given as a Python object."""

_Free = Mapping[type, Collection[str]]
"""Names of models and strategies whose arguments no table describes."""

_TABLES = {ModelConfig: MODEL_ARGUMENTS, StrategyConfig: STRATEGY_ARGUMENTS}
_NEUTRAL: Mapping[Any, Any] = {str: "", int: 1, float: 1.0, bool: False, tuple: (), Mapping: {}}


@dataclass(frozen=True)
class Findings:
    """What was found wrong so far.

    Attributes:
        bad: the keys concerned; later checks say nothing more about them.
    """

    problems: list[str] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)

    def add(self, key: str, text: str) -> None:
        """Note a problem of one key."""
        self.problems.append(f"{key} {text}")
        self.bad.add(key)

    def add_unrelated(self, problems: list[str]) -> None:
        """Note those problems that do not follow from a key that is known to be bad."""
        keys = "|".join(re.escape(key) + ("" if key.endswith(".") else r"\b") for key in self.bad)
        mentions_bad = re.compile(rf"(?<![\w.])({keys})" if keys else r"(?!)")
        self.problems.extend(text for text in problems if not mentions_bad.search(text))


def build(
    raw: Mapping[str, Any], found: Findings, *, python: bool = False, models: Collection[str] = ()
) -> ExperimentConfig:
    """Build a config as far as it goes.

    Args:
        raw: nested plain values; a model's or strategy's arguments stand beside its name.
        found: receives every problem; the result is fit for use only if it received none.
        python: admit the model and strategy named ``python`` (given in Python; a recorded run's config has them).
        models: names of further models, which somebody has installed; their arguments are plain values.

    Returns:
        The config; a wrong or missing value is stood in for by its default or by a neutral one.
    """
    free: _Free = {
        ModelConfig: {*models, *((PYTHON,) if python else ())},
        StrategyConfig: {PYTHON} if python else set(),
    }
    config = cast(ExperimentConfig, _section(ExperimentConfig, raw, "", found, free))
    if config.strategy.arguments.get("client_learning_rate", 0) is None:
        arguments = {**config.strategy.arguments, "client_learning_rate": config.training.learning_rate}
        return replace(config, strategy=replace(config.strategy, arguments=arguments))
    return config


def build_data(raw: Mapping[str, Any], found: Findings) -> DataConfig:
    """Build a table's declaration alone; its keys are named as in a whole config, ``data.target.kind``."""
    return cast(DataConfig, _section(DataConfig, raw, "data", found, {}))


def field_types(cls: type) -> dict[str, Any]:
    """Return a dataclass's field names and their types."""
    return get_type_hints(cls)


def _section(cls: Any, raw: Any, path: str, found: Findings, free: _Free) -> Any:
    if not isinstance(raw, Mapping):
        found.add(path or "the config", f"is {shown(raw)}; a section of keys and values is needed")
        raw = {}
    if cls in _TABLES:
        return _named(cls, raw, path, found, free)
    hints, values = field_types(cls), {}
    for key in raw:
        if key not in hints:
            found.add(f"{path}{'.' if path else ''}{key}", f"is unknown; {suggestion(str(key), hints)}")
    for part in fields(cls):
        key = f"{path}{'.' if path else ''}{part.name}"
        value = raw.get(part.name, UNSET)
        default = part.default_factory() if part.default_factory is not MISSING else part.default
        if not (isinstance(value, str) and value == UNSET):
            values[part.name] = _value(hints[part.name], value, key, found, free, default)
        elif default is MISSING:
            if key not in found.bad and path not in found.bad:
                found.add(key, "is not set")
            values[part.name] = _neutral(hints[part.name], key, found, free)
        else:
            values[part.name] = default
    return cls(**values)


def _value(hint: Any, raw: Any, key: str, found: Findings, free: _Free, default: Any) -> Any:
    """Return ``raw`` as ``hint`` wants it, or note the problem and return a stand-in."""
    if get_origin(hint) in (Union, types.UnionType):
        if raw is None:
            return None
        hint = next(arm for arm in get_args(hint) if arm is not type(None))
    if raw is None and isinstance(default, dict):
        return default  # Hydra merges {} into what a file says; null is how a command line empties a mapping
    if is_dataclass(hint):
        return _section(hint, raw, key, found, free)
    value = _plain(hint, raw, key, found)
    if value is not None:
        return value
    return _neutral(hint, key, found, free) if default is MISSING else default


def _plain(hint: Any, raw: Any, key: str, found: Findings) -> Any:
    """Return ``raw`` as ``hint`` wants it, or note the problem and return None."""
    origin = get_origin(hint)
    if origin is tuple:
        return _tuple(get_args(hint), raw, key, found)
    if origin is not None:
        if not isinstance(raw, Mapping):
            return found.add(key, f"is {shown(raw)}; a mapping of names to values is needed")
        for name in raw:
            if not isinstance(name, str):
                found.add(f"{key}.{name}", f"is no text; write the name in quotes: '{name}'")
        inner = get_args(hint)[1]
        values = {str(name): _plain(inner, value, f"{key}.{name}", found) for name, value in raw.items()}
        return {name: _neutral(inner, "", found, {}) if value is None else value for name, value in values.items()}
    if isinstance(raw, float) and not math.isfinite(raw):
        return found.add(key, f"is {raw}; a finite number is needed")
    if hint is Any:
        if isinstance(raw, (str, int, float)):
            return raw
        return found.add(key, f"holds {shown(raw)}; text or a number is needed")
    if hint is float:
        if isinstance(raw, (int, float)) and not isinstance(raw, bool):
            if abs(raw) < 1e300:
                return float(raw)
            return found.add(key, f"is {shown(raw)}; a number between -1e300 and 1e300 is needed")
        return found.add(key, f"is {shown(raw)}; a number is needed")
    if isinstance(raw, hint) and not (hint is int and isinstance(raw, bool)):
        return raw
    wanted = {str: "text", int: "a whole number", bool: "true or false"}[hint]
    return found.add(key, f"is {shown(raw)}; {wanted} is needed")


def _tuple(inner: tuple[Any, ...], raw: Any, key: str, found: Findings) -> Any:
    if not isinstance(raw, (list, tuple)):
        example = f"a list is needed, such as [{shown(raw)}]" if inner[-1] is Ellipsis else "two are needed: [0, 120]"
        return found.add(key, f"is {shown(raw)}; {example}")
    if inner[-1] is not Ellipsis and len(raw) != len(inner):
        return found.add(key, f"has {len(raw)} values; two are needed, the lowest and the highest: [0, 120]")
    values = tuple(_plain(inner[0], value, key, found) for value in raw)
    if inner[-1] is Ellipsis:
        return tuple(value for value in values if value is not None)
    return values if None not in values else None


def _named(cls: Any, raw: Mapping[str, Any], path: str, found: Findings, free: _Free) -> Any:
    table: Mapping[str, Mapping[str, Argument]] = _TABLES[cls]
    name = raw.get("name", UNSET)
    given = {str(key): value for key, value in raw.items() if key != "name"}
    if isinstance(name, str) and name in free.get(cls, ()):
        return cls(name, given if name == PYTHON else _settled(given, path, found))
    if not isinstance(name, str) or name not in table:
        if f"{path}.name" not in found.bad and path not in found.bad:
            unset = name == UNSET
            found.add(f"{path}.name", "is not set" if unset else f"{name!r} is unknown; {suggestion(str(name), table)}")
        found.bad.add(f"{path}.")
        return cls("")
    known, settled = table[name], {}
    for key in given:
        if key not in known:
            found.add(f"{path}.{key}", f"is no argument of {name}; {_instead(key, known)}")
    for key, rule in known.items():
        value = given.get(key, rule.default)
        if problem := rule.problem(value):
            found.add(f"{path}.{key}", problem)
            value = rule.default
        settled[key] = rule.settled(value)
    return cls(name, settled)


def _settled(given: Mapping[str, Any], path: str, found: Findings) -> dict[str, Any]:
    """The arguments of a model that is not ours: plain values, or lists of them."""
    settled: dict[str, Any] = {}
    for key, value in given.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if not all(inner is None or isinstance(inner, (str, int, float)) for inner in values):
            found.add(f"{path}.{key}", f"is {shown(value)}; text, a number, true, false, null or a list is needed")
        elif any(isinstance(inner, float) and not math.isfinite(inner) for inner in values):
            found.add(f"{path}.{key}", f"is {shown(value)}; finite numbers are needed")
        settled[key] = tuple(value) if isinstance(value, (list, tuple)) else value
    return settled


def _instead(key: str, known: Mapping[str, Argument]) -> str:
    return suggestion(key, known) if known else "it takes none"


def _neutral(hint: Any, key: str, found: Findings, free: _Free) -> Any:
    if is_dataclass(hint):
        return _section(hint, {}, key, found, free)
    return _NEUTRAL.get(hint, _NEUTRAL.get(get_origin(hint)))
