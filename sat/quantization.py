"""Weights in 8 bits, through torchao where it is installed: half the memory of bf16, activations as they were."""
from arguments import Arguments
from errors import ConfigError
from torch import nn

FORMATS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}


def check_quantization(args: Arguments) -> None:
    """Raises ConfigError where torchao is asked for and missing."""
    for key in ("quantize_transformer", "quantize_t5"):
        if getattr(args, key) is not None:
            try:
                import torchao  # noqa: F401
            except ImportError as error:
                raise ConfigError(f"args.{key} needs torchao, which is not installed: pip install torchao, or leave "
                                  "the key out") from error


def quantize_engine(engine, args: Arguments) -> None:
    """Does what `args.quantize_transformer` and `args.quantize_t5` say, once the weights are there."""
    if args.quantize_transformer is not None:
        quantize_linears(engine.network, args.quantize_transformer)
    if args.quantize_t5 is not None:
        quantize_linears(engine.conditioner, args.quantize_t5)


def quantize_linears(model: nn.Module, form: str) -> None:
    """Stores the matrices of all linear layers below `model` in `form` ("int8": a scale per row; "fp8"), in place.

    Their shape, and the products' dtype, stay. Norms, embeddings and biases are left alone.
    """
    from torchao import quantization
    quantization.quantize_(model, getattr(quantization, FORMATS[form])(), filter_fn=_is_linear)


def _is_linear(module: nn.Module, name: str) -> bool:
    """SwissArmyTransformer's parallel layers count: they compute as linear layers do."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 2 and not isinstance(module, nn.Embedding)
