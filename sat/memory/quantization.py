"""Quantization of weights to 8 bits by torchao, an optional package: half the memory of bf16.

int8 and fp8 quantize weights only and cost time. fp8_dynamic also computes the matrix products in 8 bits, each token's
activations and each row of a matrix scaled by its largest value.
"""
import torch
from torch import nn

from common.errors import ConfigError
from configuration.settings import MemorySettings

DYNAMIC = "fp8_dynamic"
FORMATS = {
    "int8": lambda quantization: quantization.Int8WeightOnlyConfig(),
    "fp8": lambda quantization: quantization.Float8WeightOnlyConfig(),
    DYNAMIC: lambda quantization: quantization.Float8DynamicActivationFloat8WeightConfig(
        granularity=quantization.PerRow()),
}


def check_quantization(settings: MemorySettings, device: torch.device) -> None:
    """Raise ConfigError if quantization needs torchao but it is missing, or if the device cannot compute it."""
    for key in ("quantize_transformer", "quantize_t5"):
        form = getattr(settings, key)
        if form is None:
            continue
        try:
            import torchao  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"args.{key} needs torchao, which is not installed: pip install torchao, or leave "
                              "the key out") from error
        if form == DYNAMIC and device.type == "cpu":
            raise ConfigError(f"args.{key}: {DYNAMIC} needs an accelerator that multiplies in 8 bits; use fp8, which "
                              "runs everywhere")


def quantize_engine(engine, settings: MemorySettings) -> None:
    """Quantize an engine, with its weights loaded, as the settings ask."""
    if settings.quantize_transformer is not None:
        for network in (engine.network, engine.weak_model):
            if network is not None:
                quantize_linears(network, settings.quantize_transformer)
    if settings.quantize_t5 is not None:
        quantize_linears(engine.conditioner, settings.quantize_t5)


def quantize_linears(model: nn.Module, form: str) -> None:
    """Quantize the matrices of all linear layers below `model` to a format of `FORMATS`, in place, one scale per row.

    Shapes and the dtype of the layers' outputs stay the same. Norms, embeddings and biases are not quantized. Raises
    ConfigError for an accelerator that cannot multiply in this format.
    """
    from torchao import quantization
    try:
        quantization.quantize_(model, FORMATS[form](quantization), filter_fn=_is_linear)
    except AssertionError as error:
        raise ConfigError(f"cannot quantize weights to {form}: {error}") from error


def _is_linear(module: nn.Module, name: str) -> bool:
    """Return True for linear layers, SwissArmyTransformer's parallel ones included."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 2 and not isinstance(module, nn.Embedding)
