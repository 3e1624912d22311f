"""The strength of a LoRA's matrices: alpha of each pair of A and B, and where it is stated."""
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from common.errors import CheckpointError
from common.listing import listed
from weights.lora_files import Content, PeftConfig
from weights.lora_patterns import check_patterns, names_of, of_layer, unused

# The release trains with this alpha, and does not store it.
RELEASED_ALPHA = 1.0, "not stored, so that of the release's training is assumed"
# Ways of PEFT's to begin (init_lora_weights) that subtract the LoRA's beginning from the model's weights.
CHANGE_THE_MODEL = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Pair:
    """A (r, in) and B (out, r) of one layer or one part of it; the update of the weight is (alpha / r) B A.

    `said`: where alpha is stated, or why it is assumed.
    """

    a: Tensor
    b: Tensor
    alpha: float
    said: str

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def strength(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class Alphas:
    """The sources of alpha, first to last: `given` for the run, stored, PEFT's settings, one number for the whole file,
    `assumed` with the reason, and the rank, as in diffusers.
    """

    content: Content
    given: float | None = None
    assumed: tuple[float, str] | None = None

    def of(self, layer: str, part: int | None, rank: int, stored: float | None) -> tuple[float, str]:
        """Return alpha of a pair of matrices, and where it is stated."""
        if self.given is not None:
            return self.given, "stated for this run"
        if stored is not None:
            return stored, "its alpha tensors"
        config = self.content.config
        if config is not None and (config.lora_alpha is not None or config.alpha_pattern):
            return self._of_config(config, layer, part, rank)
        if self.content.alpha is not None:
            return self.content.alpha
        return self.assumed or (float(rank), "not stored, so that of the rank is assumed, as in diffusers")

    def _of_config(self, config: PeftConfig, layer: str, part: int | None, rank: int) -> tuple[float, str]:
        names = names_of(layer, part)
        alpha = of_layer(config.alpha_pattern, names, float(rank) if config.lora_alpha is None else config.lora_alpha)
        if config.use_rslora:
            return alpha * math.sqrt(rank), f"{self.content.stated_in}, with use_rslora: {alpha:g} * sqrt(r)"
        return alpha, self.content.stated_in


def check_config(content: Content) -> None:
    """Raise CheckpointError for PEFT's settings under which the same matrices compute something else."""
    config = content.config
    if config is None:
        return
    if config.peft_type not in (None, "LORA"):
        raise CheckpointError(f"LoRA {content.file}: peft_type is {config.peft_type[:40]}; only LORA is supported")
    for key in ("use_dora", "lora_bias", "layer_replication"):
        if getattr(config, key):
            raise CheckpointError(f"LoRA {content.file} has {key} set, which is not supported; convert a plain LoRA")
    if str(config.init_lora_weights).startswith(CHANGE_THE_MODEL):
        raise CheckpointError(f"LoRA {content.file} was trained over weights that its start, init_lora_weights "
                              f"{str(config.init_lora_weights)[:40]}, changed, and does not fit the model's own; save "
                              "it with PEFT's path_initial_model_for_weight_conversion, or merged")
    check_patterns([*(config.rank_pattern or ()), *(config.alpha_pattern or ())], content.file)


def doubts(content: Content, pairs: Mapping[tuple[str, int | None], Pair]) -> Iterator[str]:
    """Yield where PEFT's settings do not fit the matrices: ranks (the matrices count), and patterns of no layer."""
    config = content.config
    if config is None:
        return
    ranks = {place: of_layer(config.rank_pattern, names_of(*place), config.r) for place in pairs}
    other = [names_of(*place)[0] for place, pair in pairs.items() if ranks[place] not in (None, pair.rank)]
    if other:
        yield (f"{len(other)} pairs of matrices are not of the rank that {content.stated_in} says (r {config.r}), and "
               f"count as they are: {listed(other)}")
    if config.modules_to_save:
        yield (f"modules_to_save in {content.stated_in} names {listed(config.modules_to_save)}, of which the file "
               "holds nothing; the model's own are used")
    if idle := unused(config.alpha_pattern or (), pairs):
        yield f"alpha_pattern in {content.stated_in} fits no layer of it with {idle}"


def described(pairs: Iterable[Pair]) -> str:
    """Return rank, alpha and strength of a LoRA, and where alpha is stated."""
    pairs = list(pairs)
    said = list(dict.fromkeys(pair.said for pair in pairs))
    return (f"rank {_range(pair.rank for pair in pairs)}, alpha {_range(pair.alpha for pair in pairs)}, strength "
            f"{_range(pair.strength for pair in pairs)} (alpha: {listed(said)})")


def _range(numbers: Iterable[float]) -> str:
    every = sorted(set(numbers))
    return f"{every[0]:g}" if len(every) == 1 else f"{every[0]:g} to {every[-1]:g}"
