"""What can go wrong in the laws, each with the exit code that the command line ends with."""


class AnalysisError(Exception):
    """Base of this package's errors. `exit_code` is the documented code of the command line."""

    exit_code = 1


class RunTableError(AnalysisError):
    """The run table cannot be used as it is; the message names the rows and the remedy."""

    exit_code = 2


class LawFileError(AnalysisError):
    """The law file is missing, broken, or of another schema."""

    exit_code = 2


class FitError(AnalysisError):
    """Too few runs, or the fit was rejected: no law can be stated."""

    exit_code = 5


class OutputError(AnalysisError):
    """Nothing can be written where the results were to go."""

    exit_code = 3


class AllocationError(AnalysisError):
    """The law cannot answer this question, or the question lacks a budget."""

    exit_code = 2


class ReplayError(AnalysisError):
    """A replay that cannot be run as it was asked for."""

    exit_code = 2
