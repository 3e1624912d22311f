"""Mistakes a user can mend. The message is the whole line that the user reads: what is wrong, where, what to do."""


class UserError(Exception):
    """Shown by the entry scripts as one line, without a traceback; the exit code is 2."""


class ConfigError(UserError):
    """A configuration key, value, target or command-line argument."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, unsafe to load, or made for another configuration."""


class DataError(UserError):
    """An input file: prompts, images, training clips, output folders."""


class NumericalError(UserError):
    """A computation left the finite numbers; names the step."""
