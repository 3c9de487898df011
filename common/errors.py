"""The exception tree. The command line turns each into one message and an exit code.

TuneserveError            exit code 1: the job failed
├── InputError            exit code 2: what the user gave cannot work; nothing was written
│   ├── RecipeError       the recipe or an override is wrong (all problems at once)
│   ├── DataError         the data cannot be read, split or learned from
│   ├── ModelError        the base model cannot be loaded
│   ├── ClusterError      no cluster, one that is too small, or a port that is taken
│   ├── TrackingError     the tracking server does not answer or refuses
│   └── RegistryError     no such registered model, version or alias
├── TrainingError         a fine-tuning ended without a usable checkpoint
├── StorageError          files cannot be written: a full disk, a store that refuses or is away
├── PromotionError        a candidate could not be exported, checked or registered
├── ServingError          an endpoint did not come up, answer or follow
└── JobError              a submitted job did not succeed; its exit code is the command's
"""

from collections.abc import Sequence


class TuneserveError(Exception):
    """Base of all errors that tuneserve raises on purpose."""

    exit_code = 1


class InputError(TuneserveError):
    """What the user gave cannot work."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe or its overrides are wrong; `problems` holds one line for each mistake."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))


class DataError(InputError):
    """The data cannot be read, split or learned from."""


class ModelError(InputError):
    """The base model cannot be loaded."""


class ClusterError(InputError):
    """There is no cluster, it is too small, or a port is taken."""


class TrackingError(InputError):
    """The tracking server does not answer or refuses."""


class RegistryError(InputError):
    """There is no such registered model, version or alias."""


class TrainingError(TuneserveError):
    """A fine-tuning ended without a usable checkpoint."""


class StorageError(TuneserveError):
    """Files cannot be written: a full disk, a store that refuses or is away."""


class PromotionError(TuneserveError):
    """A candidate could not be exported, checked or registered."""


class ServingError(TuneserveError):
    """An endpoint did not come up, answer or follow."""


class JobError(TuneserveError):
    """A submitted job did not succeed; `exit_code` is that of the command it ran."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)
