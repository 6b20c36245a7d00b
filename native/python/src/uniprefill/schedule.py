"""Drop schedules: where and how hard a model drops tokens, as `uniprefill.json` says it."""

import json
import os
from dataclasses import dataclass, field, fields
from typing import Optional

from .errors import ScheduleError

_KEYS = {
    "format", "version", "model", "dropLayers", "rule", "block", "sink", "lastQ", "minPromptTokens", "windowBy",
}  # fmt: skip


@dataclass(frozen=True)
class DropLayer:
    """A full-attention layer that selects, and the share of attention mass that it keeps, in [0, 1]."""

    layer: int
    p: float


@dataclass(frozen=True)
class Schedule:
    """What a schedule file says. `model`: the fingerprint of the weights it was measured with, or None."""

    drop_layers: tuple = ()
    rule: str = "exclusive"
    block: int = 64
    sink: int = 128
    last_q: int = 128
    min_prompt_tokens: int = 1024
    window_by: str = "kept"
    model: Optional[str] = None
    source: str = field(default="the schedule", compare=False)

    def __post_init__(self):
        layers = tuple(each if isinstance(each, DropLayer) else DropLayer(*each) for each in self.drop_layers)
        object.__setattr__(self, "drop_layers", layers)
        for i, (layer, before) in enumerate(zip(layers, (None, *layers))):
            at = f"dropLayers.{i}"
            _natural(self, f"{at}.layer", layer.layer)
            if before is not None and layer.layer <= before.layer:
                _fail(self, f"{at}.layer", f"{layer.layer} after {before.layer}; drop layers ascend")
            if isinstance(layer.p, bool) or not isinstance(layer.p, (int, float)) or not 0 <= layer.p <= 1:
                _fail(self, f"{at}.p", f"{layer.p!r} is not in [0, 1]")
        if self.rule not in ("exclusive", "reference"):
            _fail(self, "rule", f"{self.rule!r}; supported: exclusive, reference")
        if self.window_by not in ("kept", "original"):
            _fail(self, "windowBy", f"{self.window_by!r}; supported: kept, original")
        if self.block != 64:
            _fail(self, "block", f"{self.block!r}; the kernels keep blocks of 64 rows")
        for name, value in (("sink", self.sink), ("minPromptTokens", self.min_prompt_tokens), ("lastQ", self.last_q)):
            _natural(self, name, value)
        if not 1 <= self.last_q <= 128:
            _fail(self, "lastQ", f"{self.last_q}; the kernels score 1 to 128 rows")

    def check(self, kinds):
        """Fails with ScheduleError unless the layers, told by kind (full, sliding, delta), can carry it out."""
        for i, drop in enumerate(self.drop_layers):
            at = f"dropLayers.{i}.layer"
            if drop.layer >= len(kinds):
                _fail(self, at, f"{drop.layer}; the model has layers 0 to {len(kinds) - 1}: the schedule is for another model")
            if drop.layer == len(kinds) - 1:
                _fail(self, at, f"{drop.layer} is the last layer, which computes no more rows than are asked for anyway")
            if kinds[drop.layer] != "full":
                _fail(self, at, f"layer {drop.layer} is of kind {kinds[drop.layer]}; only a full-attention layer can select")

    @staticmethod
    def read(path):
        """Reads a schedule file. Fails with ScheduleError."""
        try:
            with open(path, encoding="utf-8") as file:
                value = json.load(file)
        except OSError as error:
            raise ScheduleError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise ScheduleError(f"{path}: {error}") from None
        return Schedule.decode(value, os.fspath(path))

    @staticmethod
    def decode(value, source="the schedule"):
        """Decodes the value of a schedule file; a key that is none of the format's is refused. Fails with ScheduleError."""
        if not isinstance(value, dict) or value.get("format") != "uniprefill-schedule":
            raise ScheduleError(f"{source}: format is not uniprefill-schedule")
        if value.get("version") != 1:
            raise ScheduleError(f"{source}: version is {value.get('version')!r}; this package reads version 1")
        stray = sorted(set(value) - _KEYS)
        if stray:
            raise ScheduleError(f"{source}: {stray[0]} is no key of a schedule")
        layers = value.get("dropLayers")
        if not isinstance(layers, list) or not all(isinstance(each, dict) and set(each) == {"layer", "p"} for each in layers):
            raise ScheduleError(f"{source}: dropLayers is not a list of {{layer, p}}")
        renamed = {"lastQ": "last_q", "minPromptTokens": "min_prompt_tokens", "windowBy": "window_by"}
        known = {each.name for each in fields(Schedule)} - {"drop_layers", "source"}
        given = {renamed.get(key, key): each for key, each in value.items()}
        return Schedule(
            drop_layers=tuple(DropLayer(each["layer"], each["p"]) for each in layers),
            source=source,
            **{key: each for key, each in given.items() if key in known},
        )


def _natural(schedule, name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        _fail(schedule, name, f"{value!r} is not a whole number from 0")


def _fail(schedule, name, detail):
    raise ScheduleError(f"{schedule.source}: {name}: {detail}")


def _paper(layers, p):
    return Schedule(tuple(DropLayer(layer, p) for layer in layers), rule="reference", source="a preset")


# The paper's schedules, by name, measured on these models only. Source: arXiv 2605.06221, reference settings.
PRESETS = {
    "llama-3.1-8b": _paper((7, 11, 15, 19, 23, 27), 0.99),
    "gemma-3-12b": _paper((29, 35, 41), 0.975),
}


def resolve(given, directory):
    """A schedule from what `enable` is given: a Schedule, a dict, `preset:NAME`, a path, or None for the file beside the model."""
    if isinstance(given, Schedule):
        return given
    if isinstance(given, dict):
        return Schedule.decode(given)
    if given is None:
        if directory is None:
            raise ScheduleError("no schedule was given, and the model has no directory with a uniprefill.json; pass one")
        return Schedule.read(os.path.join(directory, "uniprefill.json"))
    if isinstance(given, (str, os.PathLike)):
        text = os.fspath(given)
        if text.startswith("preset:"):
            name = text[len("preset:") :]
            if name not in PRESETS:
                raise ScheduleError(f"preset {name} does not exist; there are {', '.join(sorted(PRESETS))}")
            return PRESETS[name]
        return Schedule.read(text)
    raise ScheduleError(f"a schedule is a Schedule, a dict, a path or preset:NAME, not {type(given).__name__}")
