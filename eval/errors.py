"""What stops an evaluation that is no mistake of the user's."""


class EvaluationError(RuntimeError):
    """Something outside gave way (an endpoint, an engine, the disk); what was recorded is kept."""
