"""Write docs/composition.md, the table of samplers that work with each discretization, guider and denoiser.

    python tools/composition_table.py               # builds every cell; runs enough of them to try every pair of parts
    python tools/composition_table.py --meet 4      # builds and runs every cell: about ten minutes on one free core

A cell is a combination of four parts. It is first built from its configuration, which raises ConfigError for
combinations that cannot work. Cells that can be built run through `DiffusionEngine.sample`, with a small random model
that takes an image and has time patches and `ofs`. The classes are those that the modules of sat/sgm list, so a new
class is included automatically; PARAMS has the parameters that a class requires or that make it fast.
"""
import argparse
import json
import logging
import random
import re
import string
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations, product
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "sat"), str(REPOSITORY)]

import torch
from omegaconf import OmegaConf

import sgm.denoiser
import sgm.denoiser_scaling
import sgm.discretizer
import sgm.guiders
import sgm.sampling
from common.console import progress, run
from common.errors import ConfigError, NumericalError, UserError
from common.files import whole_file
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine
from sgm.guidance_scale import GuidanceScale
from sgm.parameterization import VE, VP
from sgm.sampling import check_compatible
from tests.random_model import write_model
from weights.checkpoint import save_checkpoint

logger = logging.getLogger("composition_table")

DOCUMENT = REPOSITORY / "docs" / "composition.md"
STEPS = 4
SHAPE = (2, 4, 4, 4)
PARAMS: Mapping[str, Mapping] = {
    "Autoguidance": {"ckpt_path": "WEAK"}, "PerturbedAttentionGuidance": {"layers": [0]},
    "SkipLayerGuidance": {"layers": [0]}, "SpatioTemporalSkipGuidance": {"layers": [0]}, "CFGPlusPlus": {"scale": 0.6},
    "ControlCFG": {"control_scale": 2.0},
    "TabulatedDiscretization": {"sigmas": "sdxl"}, "AdaptiveSampler": {"rtol": 0.1, "atol": 0.1},
    "RestartSampler": {"intervals": [{"low": 0.1, "high": 2.0, "repeats": 1, "steps": 1}]}}
# A discrete denoiser's table has noise levels of its scaling's parameterization.
TABLES = {VE: "LegacyDDPMDiscretization", VP: "ZeroSNRDDPMDiscretization"}
HEAD = """# Which parts work together

`python tools/composition_table.py` writes this page; `tests/tools/test_composition_table.py` checks it.

Every sampler with every discretization, guider and denoiser makes {cells} combinations. Each is built from its
configuration, which refuses {refused}. Of the others, enough run through `DiffusionEngine.sample` that every two parts
that work together are tried together (`--meet 4`: all of them). Such a run takes {steps} steps of a small random model
with an image, time patches and `ofs`, and must end in finite latents.

A number says with how many of {denoisers} denoisers the sampler, discretization and guider work; a letter says why some
or all are refused. The denoisers: {names}.
"""


@dataclass(frozen=True, eq=False)
class Part:
    """A class with its label in the table and the parameters it is built with."""

    label: str
    target: str
    params: Mapping

    @property
    def config(self) -> dict:
        return {"target": self.target, "params": dict(self.params)}


@dataclass(frozen=True)
class Cell:
    """A combination of a sampler, a discretization, a guider and a denoiser."""

    sampler: Part
    discretization: Part
    guider: Part
    denoiser: Part

    @property
    def sampler_config(self) -> dict:
        params = {**self.sampler.params, "num_steps": STEPS, "discretization_config": self.discretization.config,
                  "guider_config": self.guider.config}
        return {"target": self.sampler.target, "params": params}


@cache
def samplers() -> list[Part]:
    return [_part(c) for c in _classes(sgm.sampling) if issubclass(c, sgm.sampling.Sampler) and not _is_base(c)]


@cache
def discretizations() -> list[Part]:
    base = sgm.discretizer.Discretization
    return [_part(c) for c in _classes(sgm.discretizer) if issubclass(c, base) and c.levels is not base.levels]


@cache
def guiders() -> list[Part]:
    """Return every guider, with DynamicCFG once for each of its schedules."""
    parts = []
    for cls in _classes(sgm.guiders):
        if cls is sgm.guiders.DynamicCFG:
            moving = [schedule for schedule in GuidanceScale.SCHEDULES if schedule != "constant"]
            parts += [_part(cls, f"DynamicCFG {schedule}", scale=6.0, schedule=schedule) for schedule in moving]
        elif hasattr(cls, "passes") and cls not in (sgm.guiders.Guider, sgm.guiders.WeakenedGuidance):
            scaled = issubclass(cls, sgm.guiders.Guider)
            parts.append(_part(cls, scale=6.0) if scaled else _part(cls))
    return parts


@cache
def denoisers() -> list[Part]:
    """Return every scaling with the continuous denoiser and, if TABLES has one for it, with the discrete one."""
    parts = []
    for cls in _classes(sgm.denoiser_scaling):
        if not hasattr(cls, "parameterization"):
            continue
        scaling = {"scaling_config": _part(cls).config}
        parts.append(_part(sgm.denoiser.Denoiser, f"Denoiser with {cls.__name__}", **scaling))
        if cls.parameterization in TABLES:
            table = {"target": f"sgm.discretizer.{TABLES[cls.parameterization]}"}
            parts.append(_part(sgm.denoiser.DiscreteDenoiser, f"DiscreteDenoiser with {cls.__name__}", **scaling,
                               num_idx=1000, quantize_c_noise=False, discretization_config=table))
    return parts


def _classes(module) -> list[type]:
    """Return the classes that a package lists in `__all__`, or else the public ones a module defines, by name."""
    listed = getattr(module, "__all__", None)
    return [o for name, o in sorted(vars(module).items()) if isinstance(o, type) and (
        name in listed if listed else o.__module__ == module.__name__ and not name.startswith("_"))]


def _is_base(cls: type) -> bool:
    """Return True if one of the class's methods raises NotImplementedError."""
    methods = [getattr(cls, name) for name in dir(cls)]
    return any("NotImplementedError" in method.__code__.co_names for method in methods if hasattr(method, "__code__"))


def _part(cls: type, label: str | None = None, **params) -> Part:
    given = PARAMS.get(cls.__name__, {})
    return Part(label or cls.__name__, f"{cls.__module__}.{cls.__name__}", {**params, **given})


@cache
def cells() -> list[Cell]:
    return [Cell(*parts) for parts in product(samplers(), discretizations(), guiders(), denoisers())]


@lru_cache(maxsize=64)
def _built(config: str):
    return instantiate_from_config(json.loads(config))


def build(config: Mapping):
    """Build the object of a configuration. Recent ones are cached, since none keeps state between runs."""
    return _built(json.dumps(config))


def refusal(cell: Cell) -> str | None:
    """Return the reason why a cell's configuration is refused, or None."""
    try:
        check_compatible(build(cell.sampler_config), build(cell.denoiser.config))
    except ConfigError as error:
        return str(error)
    return None


class Laboratory:
    """A small random image-to-video model's engine, with which cells run."""

    def __init__(self, folder: Path):
        model = OmegaConf.load(write_model(folder, image=True)).model
        model.network_config.params.update(patch_size=[2, 2, 2], ofs_embed_dim=32, num_layers=1)
        model.noised_image_dropout = 0.1  # which ControlCFG needs
        network = instantiate_from_config(model.network_config)
        save_checkpoint(folder / "weak", 1, {"module": network.state_dict()})
        model.sampler_config.params.guider_config = {
            "target": "sgm.guiders.Autoguidance", "params": {"scale": 6.0, "ckpt_path": str(folder / "weak")}}
        self.engine = DiffusionEngine(Namespace(model_config=model, fp16=False, bf16=False, device="cpu")).eval()
        torch.manual_seed(0)
        for parameter in self.engine.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        text = self.engine.conditioner.conditioning({"txt": ["a red circle"]})
        self.conditioning = text.shared(concat=torch.randn(1, *SHAPE))

    def failure(self, cell: Cell) -> str | None:
        """Run a cell; return None if it ends in finite latents, or else a description of the failure."""
        self.engine.sampler, self.engine.denoiser = build(cell.sampler_config), build(cell.denoiser.config)
        try:
            out = self.engine.sample(self.conditioning, shape=SHAPE, generator=[torch.Generator().manual_seed(0)])
        except UserError as error:
            return str(error)
        return None if out.shape == (1, *SHAPE) and bool(torch.isfinite(out).all()) else "latents that are not finite"


def document(refused: Mapping[Cell, str | None]) -> str:
    """Return the page for the refusals of all cells.

    Samplers with equal entries share a row, and discretizations with equal rows share a table.
    """
    reasons: dict[str, set[str]] = {}
    for cell, reason in refused.items():
        if reason is not None:
            reasons.setdefault(_general(cell, reason), set()).add(cell.denoiser.label)
    letters = dict(zip(reasons, string.ascii_lowercase, strict=False))
    names = [part.label for part in denoisers()]
    pages = [HEAD.format(cells=len(refused), steps=STEPS, denoisers=len(names), names=", ".join(names),
                         refused=sum(reason is not None for reason in refused.values()))]
    for reason, hit in reasons.items():
        whose = "any denoiser" if len(hit) == len(names) else ", ".join(sorted(hit))
        pages.append(f"- {letters[reason]}: {reason} ({whose})")
    for rows, sharing in _grouped(discretizations(), lambda part: _rows(refused, letters, part)):
        pages += ["", f"## {sharing}", "", _line("samplers", [part.label for part in guiders()]),
                  _line("---", ["---"] * len(guiders()))]
        pages += [_line(who, entries) for entries, who in rows]
    return "\n".join(pages) + "\n"


def _rows(refused: Mapping[Cell, str | None], letters: Mapping[str, str], discretization: Part) -> tuple:
    """Return the rows ((entry for each guider, ...), samplers) of a discretization's table."""
    def entries(sampler: Part) -> tuple[str, ...]:
        return tuple(_entry(refused, letters, sampler, discretization, guider) for guider in guiders())
    return tuple(_grouped(samplers(), entries))


def _grouped(parts: Sequence[Part], key: Callable[[Part], Hashable]) -> list[tuple]:
    """Return (key, labels of the parts with that key) pairs, in the order of first occurrence."""
    groups: dict[Hashable, list[str]] = {}
    for part in parts:
        groups.setdefault(key(part), []).append(part.label)
    return [(shared, ", ".join(labels)) for shared, labels in groups.items()]


def _entry(refused: Mapping[Cell, str | None], letters: Mapping[str, str], *parts: Part) -> str:
    sampler, discretization, guider = parts
    cells_of = [Cell(sampler, discretization, guider, denoiser) for denoiser in denoisers()]
    reasons = [(cell, refused[cell]) for cell in cells_of]
    why = sorted({letters[_general(cell, reason)] for cell, reason in reasons if reason is not None})
    return " ".join([str(sum(refused[cell] is None for cell in cells_of)), *why])


def _general(cell: Cell, reason: str) -> str:
    """Return the reason with the discretization's name replaced, so that equal reasons match."""
    return re.sub(rf"\b{cell.discretization.label}\b", "the discretization", reason)


def _line(first: str, rest: Sequence[str]) -> str:
    return "| " + " | ".join([first, *rest]) + " |"


def meeting(parts: int, refused: Mapping[Cell, str | None]) -> list[Cell]:
    """Choose accepted cells, in a random order, so that every `parts` parts that can be combined meet in one."""
    allowed = [cell for cell, reason in refused.items() if reason is None]
    random.Random(0).shuffle(allowed)
    met: set[tuple[Part, ...]] = set()
    chosen = []
    for cell in allowed:
        groups = set(combinations(vars(cell).values(), parts))
        if not groups <= met:
            met |= groups
            chosen.append(cell)
    return chosen


def make_table(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meet", type=int, choices=(1, 2, 3, 4), default=2,
                        help="run enough cells to try every combination of this many parts (default: %(default)s)")
    options = parser.parse_args(argv)
    refused = {cell: refusal(cell) for cell in progress(cells(), "built")}
    chosen = meeting(options.meet, refused)
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder))
        for cell in progress(chosen, "run"):
            failure = laboratory.failure(cell)
            if failure is not None:
                raise NumericalError(f"{', '.join(part.label for part in vars(cell).values())}: {failure}; fix it, or "
                                     "refuse it when it is built")
    with whole_file(DOCUMENT) as partial:
        partial.write_text(document(refused), encoding="utf-8")
    logger.info("%d cells ran, %d are refused; written to %s", len(chosen),
                sum(reason is not None for reason in refused.values()), DOCUMENT)


if __name__ == "__main__":
    sys.exit(run(make_table))
