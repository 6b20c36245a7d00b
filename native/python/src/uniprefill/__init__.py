"""Prefill that drops tokens, for Hugging Face transformers, and its operators for torch.

    import uniprefill
    uniprefill.enable(model, "uniprefill.json")
    model.generate(**inputs)
    uniprefill.disable(model)

`uniprefill.operators` has the operators of the C library as torch custom operators. docs/python.md is the manual.
"""

from .errors import LibraryError, ScheduleError, SyntheticKeepWarning, UniPrefillError, UnsupportedError
from .fingerprint import fingerprint
from .schedule import PRESETS, DropLayer, Schedule

__all__ = [
    "PRESETS", "DropLayer", "LibraryError", "Schedule", "ScheduleError", "SyntheticKeepWarning", "UniPrefillError",
    "UnsupportedError", "disable", "enable", "fingerprint", "is_enabled", "operators",
]  # fmt: skip


def __getattr__(name):
    # Schedules, fingerprints and the library need no torch; these do.
    if name in ("enable", "disable", "is_enabled"):
        from . import enabling

        return getattr(enabling, name)
    if name == "operators":
        import importlib

        return importlib.import_module(".operators", __name__)
    raise AttributeError(f"module 'uniprefill' has no attribute '{name}'")
