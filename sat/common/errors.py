"""User errors. The message is the one line that the user reads: what is wrong, where, and what to do."""


class UserError(Exception):
    """A mistake the user can correct; scripts report it in one line without a traceback and exit with code 2."""


class ConfigError(UserError):
    """A wrong configuration key, value, target or command-line argument."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, unsafe to load, or made for another configuration."""


class DataError(UserError):
    """A wrong file or folder of inputs or outputs: prompts, images, training clips, output folders."""


class NumericalError(UserError):
    """A computation whose result is not finite; the message names the step."""
