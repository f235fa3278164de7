"""What is to be run: a value that can be compared, hashed and written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from clbench.errors import ClbenchError
from clbench.settings import Layer, Settings, preset_layers, settle_settings
from clbench.tuned import texts

if TYPE_CHECKING:
    from clbench.discovery import Method

Value = bool | int | float | str | None

# Raised whenever equal specs would give other numbers. It is part of a run's identity and of the leaderboard's grouping: runs
# of different versions are never averaged.
#   0  records of clbench 0.0.1 and 0.1.0, from before there were versions (converted from schema 1)
#   1  the first one: scores, answers and adapters equal to those of clbench 0.1.0, bit for bit
#   2  rank blocks (inclora, olora, moelora, sapt) are computed by the fused LoRA layers, which round otherwise; SAPT draws the
#      rows of its reflection by one permutation a task. The other methods' numbers are those of version 1.
#   3  decoders read training rows padded on the right, without a mask, and score the labels alone, which rounds otherwise (on
#      some GPUs training in bfloat16 failed before); computing once what all rows or questions begin with rounds otherwise, too.
#      Answers that are not ASCII are compared by Unicode's forms, and Rouge-L counts words of any script; an empty answer scores
#      nothing, whatever the target; a label of punctuation alone is compared as it stands; special tokens in data are plain text.
#      Of encoder-decoders on ASCII text without these: as version 2.
PROTOCOL_VERSION = 3


@dataclass(frozen=True)
class RunSpec:
    """One run: a method's name, the value of each of its options, and the settings, stream and seed among them."""

    method: str
    options: Mapping[str, Value]
    settings: Settings

    def __hash__(self) -> int:
        return hash((self.method, frozenset(self.options.items()), self.settings))

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self.settings.stream

    @property
    def seed(self) -> int:
        """The seed of initialisation, shuffling, dropout, sampling and memory."""
        return self.settings.seed

    @property
    def recorded_settings(self) -> dict[str, Value]:
        """The settings without stream and seed, which stand beside them in the JSON form and in a record."""
        return {name: value for name, value in asdict(self.settings).items() if name not in ("stream", "seed")}

    def __str__(self) -> str:
        return f"{self.method}, {self.stream}, seed {self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """Return the spec as plain values."""
        content = {"method": self.method, "options": dict(self.options), "stream": self.stream, "seed": self.seed}
        return {**content, "settings": self.recorded_settings}

    def to_json(self) -> str:
        """Return the spec as JSON, the same text for equal specs."""
        return json.dumps(self.as_dict(), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        """Read what `to_json` wrote.

        Raises:
            ClbenchError: it is no spec, or names a setting that this version of clbench has not.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ClbenchError(f"not the spec of a run: {error}") from None
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunSpec:
        """Read what `as_dict` returned.

        Raises:
            ClbenchError: it is no spec, or names a setting that this version of clbench has not.
        """
        try:
            values = {**content["settings"], "stream": content["stream"], "seed": content["seed"]}
            method, options = content["method"], content["options"]
        except (KeyError, TypeError) as error:
            raise ClbenchError(f"not the spec of a run: {error!r}") from None
        if not isinstance(method, str) or not isinstance(options, Mapping):
            raise ClbenchError("not the spec of a run: its method must be a text, its options a mapping")
        strange = sorted(values.keys() - {field.name for field in fields(Settings)})
        if strange:
            raise ClbenchError(f"setting '{strange[0]}' is unknown here: it is of another version of clbench")
        return cls(method, options, Settings(**values))


def make_spec(
    method: Method, options: Mapping[str, Any], settings: Mapping[str, Any], preset: str | None = None
) -> RunSpec:
    """Return the run of a method with what its user gives; for the rest its presets count, then the defaults.

    Raises:
        ClbenchError: no such preset, option or setting, or a value out of its range.
    """
    layers = preset_layers(settings, preset, method.name, options)
    beneath = {name: value for layer in layers.values() for name, value in layer.options.items()}
    spec = RunSpec(method.name, method.resolve_options(options, beneath), settle_settings(settings, layers))
    if spec.settings.tuned is None or "tuned" in settings or _is_kept(spec, list(layers.values())[-1]):
        return spec
    return replace(spec, settings=replace(spec.settings, tuned=None))


def _is_kept(spec: RunSpec, layer: Layer) -> bool:
    """Say whether what was tuned was left as it is; what a user changes by hand is no longer tuned."""
    of_settings = {name: vars(spec.settings)[name] for name in layer.settings}
    return texts(of_settings) == texts(layer.settings) and texts(
        {name: spec.options[name] for name in layer.options}
    ) == texts(layer.options)
