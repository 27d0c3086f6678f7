"""What can go wrong in a search, each with the exit code that the command line ends with."""


class QuokkaError(Exception):
    """Base of this package's errors. `exit_code` is the documented code of the command line."""

    exit_code = 1


class ConfigurationError(QuokkaError):
    """The call, the study file, or the corpus that it names cannot be used as it is."""

    exit_code = 2


class MachineError(QuokkaError):
    """The machine lacks what the study needs: storage, a cluster, a device."""

    exit_code = 3
