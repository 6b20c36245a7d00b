"""What goes wrong, by name."""


class UniPrefillError(Exception):
    """Every failure of this package."""


class LibraryError(UniPrefillError):
    """libuniprefill is missing, of another version, or answered a call with an error; the message says which and what to do."""


class ScheduleError(UniPrefillError, ValueError):
    """A drop schedule that is malformed, or not for this model. The message names the field."""


class UnsupportedError(UniPrefillError, NotImplementedError):
    """Something that dropping does not work with: a model family, a cache, a way to decode. The message names it."""


class SyntheticKeepWarning(UserWarning):
    """Rows are kept at random, to a given share: good for timing, and for nothing else."""
