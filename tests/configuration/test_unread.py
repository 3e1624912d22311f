"""Keys that are accepted and never read: all of them are declared, and a value that asks for something is answered."""
import ast
import importlib
import inspect
import logging
from collections.abc import Iterator
from functools import cache

import pytest
from omegaconf import OmegaConf

from common.errors import ConfigError
from common.unread import Unread, warn_unread
from configuration import unread
from configuration.model import UNREAD as MODEL
from configuration.model import ModelConfig
from configuration.settings import GROUPS, KEYS, Arguments
from configuration.targets import check_config
from configuration.unread import warn_precision, warn_typed
from network import stack
from tests.source_tree import COMMANDS, ROOT, modules, parse

SETTINGS = "configuration.settings"
SECTIONS = {SETTINGS: unread.SETTINGS, "configuration.model": MODEL}  # in place of a class's UNREAD
OF_MAPPINGS = {"Section", "Optimizer", "OptimizerParams", "OwnKeys"}  # they describe keys that are read as such
# Other things have attributes of these names: `x.device` does not read a parameter `device`.
OF_TENSORS, OF_LIBRARIES = {"device"}, {"device", "load", "mode", "save", "split"}


def read_attributes(*trees: ast.AST, owner: str = "") -> set[str]:
    """Names of attributes that are read: of anything, or of `owner` and what it holds."""
    return {name for tree in trees for name, owners in reads(tree) if not owner or owner in owners}


@cache
def reads(tree: ast.AST) -> list[tuple[str, list[str]]]:
    """Names of attributes that are read, each with the parts of what it is read of."""
    return [(node.attr, ast.unparse(node.value).split(".")) for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)]


@cache
def read_everywhere() -> set[str]:
    return read_attributes(*modules().values(), *commands())


@cache
def commands() -> list[ast.Module]:
    return [parse(ROOT / command) for command in COMMANDS]


@cache
def classes() -> dict[str, tuple[str, ast.ClassDef]]:
    return {node.name: (module, node) for module, tree in modules().items() for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)}


def family(name: str) -> Iterator[ast.ClassDef]:
    """The class and all that derive from it."""
    known = classes()
    yield known[name][1]
    for child, (_, node) in known.items():
        if any(ast.unparse(base).rpartition(".")[2] == name for base in node.bases):
            yield from family(child)


def parameters(node: ast.ClassDef) -> dict[str, set[str] | None]:
    """Constructor parameters to the attributes that alone hold them; None for one that is used at once."""
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return {field.target.id: {field.target.id} for field in node.body
                if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation)}
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            arguments = function.args.posonlyargs + function.args.args[1:] + function.args.kwonlyargs
            return {argument.arg: holders(function, argument.arg) for argument in arguments}
    return {}


def holders(function: ast.FunctionDef, name: str) -> set[str] | None:
    kept = {id(value): target.attr for node in ast.walk(function) if isinstance(node, ast.Assign)
            for target, value in pairs(node) if isinstance(target, ast.Attribute)}
    uses = [node for node in ast.walk(function)
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)]
    return {kept[id(use)] for use in uses} if all(id(use) in kept for use in uses) else None


def pairs(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=True)
        else:
            yield target, node.value


def unread_parameters(module: str, node: ast.ClassDef) -> set[str]:
    """The constructor parameters of a class that nothing in the project reads."""
    if module == SETTINGS:
        owned = (read_attributes(*modules().values(), *commands(), owner=owner) for owner in ("args", "self", *GROUPS))
        read = read_everywhere() - OF_LIBRARIES | set().union(*owned)
    else:
        read = read_everywhere() - OF_TENSORS | read_attributes(*family(node.name), owner="self")
    return {parameter for parameter, held in parameters(node).items() if held is not None and not held & read}


def declared(module: str, name: str) -> dict[str, Unread]:
    """What the class declares of its own parameters, not of mappings among them."""
    cls = getattr(importlib.import_module(module), name)
    entries = getattr(cls, "UNREAD", SECTIONS.get(module, {}))
    return {key: entry for key, entry in entries.items() if key in inspect.signature(cls).parameters}


def test_every_parameter_that_nothing_reads_is_declared_and_no_other():
    found = {}
    for name, (module, node) in classes().items():
        if name in OF_MAPPINGS:
            continue
        unread_here = unread_parameters(module, node)
        if unread_here or "UNREAD" in ast.unparse(node):
            found[name] = unread_here
            assert unread_here == set(declared(module, name)), f"{module}.{name}"
    assert {"ModelConfig", "Sampler", "LoraMixin"} <= set(found)  # all kinds of places are looked at
    assert set(unread.SETTINGS) <= set(KEYS) and set(MODEL) <= set(inspect.signature(ModelConfig).parameters)


def test_a_parameter_that_is_stored_and_never_read_is_found():
    node = ast.parse("class A:\n def __init__(self, a, b, c, d):\n  self.a, self.b = a, b\n  self.e = c + 1\n"
                     "  if d: pass\n def f(self, x):\n  return self.a, x.b").body[0]
    read = read_attributes(node, owner="self")
    assert parameters(node) == {"a": {"a"}, "b": {"b"}, "c": None, "d": None} and read == {"a"}


def test_defaults_and_released_values_pass_without_a_warning(caplog):
    defaults = {key: KEYS[key].default for key in unread.SETTINGS}
    warn_unread(defaults, unread.SETTINGS, "args")
    warn_unread({key: getattr(ModelConfig, key) for key in MODEL}, MODEL, "model")
    for name, (module, node) in classes().items():
        if "UNREAD" in ast.unparse(node):
            cls = getattr(importlib.import_module(module), name)
            given = {key: inspect.signature(cls).parameters[key].default for key in declared(module, name)}
            warn_unread(given, cls.UNREAD, name)
    released = {"vocab_size": 1, "max_sequence_length": 64, "is_decoder": False}
    warn_unread(released, stack.TransformerArgs.UNREAD, "transformer_args")
    assert caplog.records == []


def test_a_value_that_asks_for_something_is_named_with_its_place_and_the_reason(caplog):
    sampler = {"target": "sgm.sampling.EulerEDMSampler", "params": {"verbose": True, "device": "cpu"}}
    network = {"target": "dit_video_concat.DiffusionTransformer", "params": {"transformer_args": {"vocab_size": 2}}}
    check_config({"sampler_config": sampler, "network_config": network})
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "model.sampler_config.params.verbose: True has no effect: progress is reported by the caller, a step at a time",
        "model.network_config.params.transformer_args.vocab_size: 2 has no effect: the network embeds no words"]


def test_one_process_alone_warns(caplog, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    warn_unread({"log_keys": ["fps"]}, MODEL, "model")
    assert caplog.records == []
    monkeypatch.setenv("RANK", "0")
    warn_unread({"log_keys": ["fps"]}, MODEL, "model")
    assert "model.log_keys: ['fps'] has no effect" in caplog.text


@pytest.mark.parametrize("key", ["input_keys", "legacy_ucg_value"])
def test_a_key_beside_params_that_would_change_an_embedding_is_refused(key):
    embedder = {"target": "sgm.modules.encoders.modules.FrozenT5Embedder", "input_key": "txt", "ucg_rate": 0.1}
    check_config(embedder)
    with pytest.raises(ConfigError, match=f"model.{key}: unknown key beside target and params"):
        check_config({**embedder, key: ["txt"]})


def test_a_key_of_embedders_is_refused_beside_other_targets():
    with pytest.raises(ConfigError, match="model.ucg_rate: unknown key beside target and params"):
        check_config({"target": "torch.nn.Identity", "ucg_rate": 0.1})


def test_what_is_typed_for_another_command_is_told(caplog):
    args = Arguments(typed=["train_iters", "seed"], composed={"args": {"train_iters": 5, "seed": 3, "ema_decay": 0.5}})
    warn_typed(args, "sample_video.py")
    assert caplog.messages == ["args.train_iters: 5 has no effect: sample_video.py does not read it"]


@pytest.mark.parametrize("section, told", [({}, True), ({"bf16": {"enabled": False}}, True),
                                           ({"bf16": {"enabled": True}}, False)])
def test_a_precision_that_training_does_not_take_is_told(caplog, section, told):
    args = Arguments(config=OmegaConf.create({"deepspeed": section}))
    args.run.bf16 = True
    warn_precision(args)
    assert ("training takes its precision from deepspeed.bf16.enabled" in caplog.text) == told
