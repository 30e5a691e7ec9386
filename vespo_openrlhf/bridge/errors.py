"""Why a run ends, or an engine is given up; told apart by their kind across processes."""

from __future__ import annotations


class StoppedError(RuntimeError):
    """The run burns its data, has lost much of it, or would train on samples of another policy; it
    does not end well."""


class UntoldExpertsError(StoppedError):
    """An engine has not said which experts each token took, and will not say it of the next one."""


class LostEnginesError(RuntimeError):
    """Engines have died or hang while they were given weights: none of them is whole any more."""


class RefusedWeightsError(StoppedError):
    """An engine has been given weights that it cannot load, or has found others in their place;
    another engine could neither."""


class LostSampleError(TimeoutError):
    """A sample has exceeded a limit of the run.

    Attributes:
        reason: which, as it is counted.
    """

    def __init__(self, message: str, reason: str = "") -> None:  # Ray makes it of its message
        super().__init__(message)
        self.reason = reason
