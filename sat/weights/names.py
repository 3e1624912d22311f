"""Names of tensors as people's files have them, brought to those of one part's layouts.

Trainers, wrappers and other programs put prefixes before the names of a model's tensors, one after another, and store
other parts beside them. A part's `Vocabulary` says how its own names begin; everything before that is a prefix.
"""
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import CheckpointError
from common.listing import listed
from weights.checkpoint import NETWORK_PREFIX

# What torch.compile, FSDP and checkpointing put anywhere into a name.
WRAPPED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
OF_WRAPPERS = ("module.", "model.", "state_dict.", "net.", "network.")
AVERAGES = ("model_ema.", "ema.", "ema_model.", "average.")


@dataclass(frozen=True)
class Vocabulary:
    """The names of a part: how its own begin (`roots`), prefixes before them, and how names of other parts begin."""

    part: str
    roots: tuple[str, ...]
    prefixes: tuple[str, ...]
    others: tuple[str, ...]


TRANSFORMER = Vocabulary(
    "transformer",
    roots=("time_embed.", "ofs_embed.", "label_emb.", "mixins.", "transformer.layers.", "transformer.final_layernorm.",
           "transformer.position_embeddings.", "transformer.word_embeddings.",  # up to here the release's
           "transformer_blocks.", "time_embedding.", "ofs_embedding.", "patch_embed.", "norm_final.", "norm_out.",
           "proj_out."),
    prefixes=("diffusion_model.", "transformer.", *OF_WRAPPERS),
    others=("first_stage_model.", "conditioner.", "cond_stage_model.", "vae.", "text_encoder.", "text_encoders.",
            *AVERAGES))
AUTOENCODER = Vocabulary(
    "autoencoder", roots=("encoder.", "decoder.", "regularization.", "loss."),
    prefixes=("first_stage_model.", "vae.", "autoencoder.", *OF_WRAPPERS),
    others=("diffusion_model.", "conditioner.", "cond_stage_model.", "transformer.", "transformer_blocks.", "mixins.",
            "text_encoder.", "text_encoders.", *AVERAGES))
TEXT_ENCODER = Vocabulary(
    "text encoder", roots=("shared.", "encoder.", "decoder.", "lm_head."),
    prefixes=("text_encoders.", "text_encoder.", "cond_stage_model.", "conditioner.embedders.0.", "t5xxl.",
              "transformer.", *OF_WRAPPERS),
    others=("diffusion_model.", "first_stage_model.", "vae.", "transformer_blocks.", "mixins.", *AVERAGES,
            "spiece_model"))  # ComfyUI's files may hold the tokenizer


@dataclass(frozen=True)
class Named:
    """The tensors of one part in a file: `theirs` maps names without prefixes to those on disk."""

    theirs: Mapping[str, str]
    prefixes: tuple[str, ...] = ()
    others: tuple[str, ...] = field(default=())

    @property
    def described(self) -> list[str]:
        """Clauses on what was done to the names, for a message."""
        plain = self.prefixes in ((), (NETWORK_PREFIX,))
        said = [] if plain else [f"prefix {' or '.join(filter(None, self.prefixes))} removed"]
        places = dict.fromkeys(name.partition(".")[0] for name in self.others)
        return said + ([f"{len(self.others)} entries of other parts ignored ({listed(places)})"] if places else [])


def named(names: Iterable[str], vocabulary: Vocabulary, source: Path) -> Named:
    """Return a part's tensors among those of a file, without their prefixes.

    A name that is no known one counts as the part's if it begins with a prefix that known names have, so that it can be
    compared with the model. Raises CheckpointError if two names become one, and if there are names, all of other parts.
    """
    bare = {name: _bare(name, vocabulary) for name in names}
    prefixes = {WRAPPED.sub("", name).removesuffix(own) for name, own in bare.items() if own}
    theirs: dict[str, str] = {}
    others: list[str] = []
    for name, own in bare.items():
        own = _with_prefix_of_others(name, prefixes, vocabulary) if own is None else own
        if own is None:
            others.append(name)
        elif own in theirs:
            raise CheckpointError(f"checkpoint {source}: {theirs[own]} and {name} are both {own} of the "
                                  f"{vocabulary.part}; leave one of them out of the file")
        else:
            theirs[own] = name
    if not theirs and others:
        raise CheckpointError(f"checkpoint {source} holds no {vocabulary.part}; its tensors are {listed(others)}")
    removed = {name.removesuffix(own) for own, name in theirs.items() if name != own and name.endswith(own)}
    inside = {"_orig_mod." for own, name in theirs.items() if not name.endswith(own)}
    return Named(theirs, tuple(sorted(removed | inside)), tuple(others))


def _bare(name: str, vocabulary: Vocabulary) -> str | None:
    """Return a known name of the part without its prefixes; None if it is none."""
    rest = WRAPPED.sub("", name)
    while not rest.startswith(vocabulary.roots):
        if rest.startswith(vocabulary.others):
            return None
        prefix = next((prefix for prefix in vocabulary.prefixes if rest.startswith(prefix)), None)
        if prefix is None:
            return None
        rest = rest.removeprefix(prefix)
    return rest


def _with_prefix_of_others(name: str, prefixes: Iterable[str], vocabulary: Vocabulary) -> str | None:
    """Return an unknown name without the longest prefix that known names have; None if it is another part's."""
    rest = WRAPPED.sub("", name)
    for prefix in sorted(prefixes, key=len, reverse=True):
        if rest.startswith(prefix) and not _is_others(rest, vocabulary):
            return rest.removeprefix(prefix)
    return None


def _is_others(name: str, vocabulary: Vocabulary) -> bool:
    """Return True if a name, perhaps after prefixes, begins as those of other parts do."""
    while not name.startswith(vocabulary.others):
        prefix = next((prefix for prefix in vocabulary.prefixes if name.startswith(prefix)), None)
        if prefix is None:
            return False
        name = name.removeprefix(prefix)
    return True
