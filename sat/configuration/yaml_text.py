"""YAML text as configurations: parsed without executing anything, and bounded in size before it is expanded."""
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import ConfigError

LONGEST = 300_000  # characters of a file
MOST_NODES = 200_000  # values and keys, with every alias written out
DEEPEST = 60
UNREADABLE = (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError)


def parse(text: str, source: str):
    """Return a YAML text as an OmegaConf configuration, whose references `${...}` are not followed; None if empty.

    Raises ConfigError, which names `source`, for a text that is no YAML, has a tag that asks for an object, a key
    twice, or a number of thousands of digits, and for one that is too long, too deep or expands to too much.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"{source} has {len(text)} characters, too many for a configuration; is it another file?")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return None
        _check_size(root, source)
        if not isinstance(root, yaml.MappingNode | yaml.SequenceNode):
            raise ConfigError(f"{source} is plain text, no mapping with keys; prompts are named by --input-file")
        return OmegaConf.create(text)
    except UNREADABLE as error:
        raise ConfigError(f"{source} is not a readable YAML file: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return what is wrong with a text, of an error in UNREADABLE."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())[:300]
    if "integer string conversion" in text:
        return "a number in it has thousands of digits"
    return f"{text} (indent with spaces)" if "'\\t'" in text else text


def _check_size(root: yaml.Node, source: str) -> None:
    """Raise ConfigError for a tree that refers to itself, is too deep, or has too many nodes once it is expanded."""
    sizes: dict[int, int] = {}  # of the nodes that are finished; 0 for those above the current one

    def size(node: yaml.Node, depth: int) -> int:
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise ConfigError(f"{source}: an alias stands inside what it refers to")
            return sizes[id(node)]
        if depth > DEEPEST:
            raise ConfigError(f"{source} is nested more than {DEEPEST} levels deep")
        sizes[id(node)] = 0
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else (
            node.value if isinstance(node, yaml.SequenceNode) else ())
        sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in parts)
        if sizes[id(node)] > MOST_NODES:
            raise ConfigError(f"{source} expands to more than {MOST_NODES} values; its aliases repeat too much")
        return sizes[id(node)]

    size(root, 0)
