"""Weights in 8 bits, through torchao where it is installed: half the memory of bf16.

int8 and fp8 leave activations as they were, and cost time; with fp8_dynamic the products themselves are of 8 bits, each
token's activations and each row of a matrix scaled by its largest value.
"""
from torch import nn

from common.errors import ConfigError
from configuration.settings import Arguments

DYNAMIC = "fp8_dynamic"
FORMATS = {
    "int8": lambda quantization: quantization.Int8WeightOnlyConfig(),
    "fp8": lambda quantization: quantization.Float8WeightOnlyConfig(),
    DYNAMIC: lambda quantization: quantization.Float8DynamicActivationFloat8WeightConfig(
        granularity=quantization.PerRow()),
}


def check_quantization(args: Arguments) -> None:
    """Raises ConfigError where torchao is asked for and missing, or what the device cannot do."""
    for key in ("quantize_transformer", "quantize_t5"):
        form = getattr(args, key)
        if form is None:
            continue
        try:
            import torchao  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"args.{key} needs torchao, which is not installed: pip install torchao, or leave "
                              "the key out") from error
        if form == DYNAMIC and args.device.type == "cpu":
            raise ConfigError(f"args.{key}: {DYNAMIC} needs an accelerator that multiplies in 8 bits; fp8 runs "
                              "everywhere")


def quantize_engine(engine, args: Arguments) -> None:
    """Does what `args.quantize_transformer` and `args.quantize_t5` say, once the weights are there."""
    if args.quantize_transformer is not None:
        quantize_linears(engine.network, args.quantize_transformer)
    if args.quantize_t5 is not None:
        quantize_linears(engine.conditioner, args.quantize_t5)


def quantize_linears(model: nn.Module, form: str) -> None:
    """Stores the matrices of all linear layers below `model` in a form of `FORMATS`, a scale per row, in place.

    Their shape, and the dtype of what the layers give, stay. Norms, embeddings and biases are left alone. Raises
    ConfigError for an accelerator that cannot multiply in this form.
    """
    from torchao import quantization
    try:
        quantization.quantize_(model, FORMATS[form](quantization), filter_fn=_is_linear)
    except AssertionError as error:
        raise ConfigError(f"weights as {form}: {error}") from error


def _is_linear(module: nn.Module, name: str) -> bool:
    """SwissArmyTransformer's parallel layers count: they compute as linear layers do."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 2 and not isinstance(module, nn.Embedding)
