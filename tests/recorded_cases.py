"""Comparison of this code with outputs recorded from the public CogVideoX release (float32, CPU).

Each folder below `recorded/` is a case. Its `case.json` holds kind, configuration and tolerance; `tensors.safetensors`
holds inputs, outputs, weights (`weights.*`) and random draws (`draw.NNN`, in the order of drawing). The function of
each kind yields (name, computed tensor, recorded tensor).
"""
import copy
import json
from argparse import Namespace
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn

from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine

FOLDER = Path(__file__).parent / "recorded"
PARTS = "sgm.modules.diffusionmodules."
FAMILIES = {"randn": "gauss", "randn_like": "gauss", "normal": "normal", "rand": "uniform", "randint": "integer",
            "bernoulli": "bernoulli"}
Compared = Iterator[tuple[str, Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """A recorded case: the contents of case.json, its configuration, and its tensors."""

    meta: dict
    config: dict
    tensors: dict[str, Tensor]

    @classmethod
    def load(cls, name: str) -> "Case":
        meta = json.loads((FOLDER / name / "case.json").read_text(encoding="utf-8"))
        return cls(meta, meta["config"], load_file(FOLDER / name / "tensors.safetensors"))

    @property
    def weights(self) -> dict[str, Tensor]:
        """The recorded state dict."""
        return {k.removeprefix("weights."): v for k, v in self.tensors.items() if k.startswith("weights.")}

    def input(self, name: str) -> Tensor:
        """Return a copy of a recorded tensor."""
        return self.tensors[name].clone()

    def draws(self, prefix: str = "draw.", families: Sequence[str] | None = None):
        """Return a context manager in which torch draws what was recorded under `prefix`."""
        names = sorted(k for k in self.tensors if k.startswith(prefix))
        return recorded_draws(zip(families or self.meta["draws"], (self.tensors[k] for k in names), strict=True))


def build(config: dict, **extra):
    """Build the object of a configuration."""
    return instantiate_from_config(OmegaConf.create(config), **extra)


@contextmanager
def recorded_draws(draws: Iterable[tuple[str, Tensor]]) -> Iterator[None]:
    """Context manager in which torch's random functions return recorded draws.

    Each call takes the first unused draw of its family and shape. Raises AssertionError if there is none left. Unused
    draws are allowed: the release draws once more for a last step that adds no noise.
    """
    waiting = defaultdict(deque)
    for family, draw in draws:
        waiting[family, draw.shape].append(draw)

    def stand_in(name, real):
        def draw(*args, **kwargs):
            own = real(*args, **kwargs)
            queue = waiting[FAMILIES[name], own.shape]
            if not queue:
                raise AssertionError(f"torch.{name} of shape {tuple(own.shape)} is drawn more often than was recorded")
            return queue.popleft().to(own.dtype, copy=True)
        return draw

    with mock.patch.multiple(torch, **{name: stand_in(name, getattr(torch, name)) for name in FAMILIES}):
        yield


def recipe_weights(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return weights too large to store: one stream of standard normals over the sorted names, scaled by their kind."""
    stream = np.random.RandomState(seed)
    weights = {}
    for name, value in sorted(module.state_dict().items()):
        shape = tuple(value.shape)
        drawn = stream.standard_normal(shape)
        if len(shape) > 1:
            drawn *= np.clip(np.prod(shape[1:]) ** -0.5, 0.02, 0.2)
        else:
            is_norm = name.endswith("weight") and any(part in name for part in ("norm1", "norm2", "norm_out"))
            drawn = is_norm + 0.1 * drawn
        weights[name] = torch.from_numpy(drawn.astype(np.float32))
    return weights


class Mixture:
    """The exact denoiser of a mixture of K diagonal Gaussians, whose log weights are the conditioning (B, 1, K)."""

    def __init__(self, mean: Tensor, variance: Tensor, parameterization: str):
        self.mean, self.variance, self.vp = mean.double(), variance.double(), parameterization == "VP"
        self.levels, self.timesteps = [], []

    def __call__(self, x: Tensor, level: Tensor, cond: dict, idx: Tensor | None = None, **inputs) -> Tensor:
        self.levels.append(level.clone())
        if idx is not None:
            self.timesteps.append(idx.clone())
        level = level.double().reshape(-1, 1, 1, 1, 1, 1)
        alpha = level if self.vp else torch.ones_like(level)
        noise = 1 - alpha**2 if self.vp else level**2
        spread = noise + alpha**2 * self.variance
        offset = x.double().unsqueeze(1) - alpha * self.mean
        likelihood = -0.5 * (offset**2 / spread + spread.log()).sum(dim=(2, 3, 4, 5))
        share = (cond["crossattn"].double().squeeze(1) + likelihood).softmax(dim=1)
        means = self.mean + alpha * self.variance * offset / spread
        return torch.einsum("bk,bktchw->btchw", share, means).float()


class Linear(nn.Module):
    """A linear network on (B, T, C, H, W) that uses every kind of input."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        for name, value in weights.items():
            self.register_parameter(name, nn.Parameter(value.clone()))

    def forward(self, x: Tensor, t: Tensor, cond: dict, **inputs) -> Tensor:
        per_row = self.b + torch.outer(torch.tanh(t.float() / 1000), self.v) + cond["crossattn"].mean(1) @ self.P
        y = torch.einsum("oc,btchw->btohw", self.W, x) + per_row[:, None, :, None, None]
        return y + 0.3 * cond["concat"] if "concat" in cond else y


def dit(case: Case) -> Compared:
    """Compare the transformer's output."""
    network = build(case.config)
    network.load_state_dict(case.weights, strict=True)
    wrapper = build({"target": PARTS + "wrappers.OpenAIWrapper"}, diffusion_model=network).eval()
    for run in (f"run{i}." for i in range(case.meta["runs"])):
        given = [k for k in ("crossattn", "concat", "vector") if f"{run}c.{k}" in case.tensors]
        cond = {k: case.input(f"{run}c.{k}") for k in given}
        out = wrapper(case.input(run + "x"), case.input(run + "t"), cond)
        yield run + "out", out, case.tensors[run + "out"]


def recorded_vae(case: Case) -> nn.Module:
    """Build the case's autoencoder with its recipe weights."""
    vae = build(case.config).eval()
    vae.load_state_dict(recipe_weights(vae, case.meta["recipe_seed"]), strict=True)
    return vae


def vae_enc(case: Case) -> Compared:
    """Compare the posterior's moments and a sample of it."""
    vae = recorded_vae(case)
    for run in case.meta["runs"]:
        yield f"{run}.moments", vae.encode(case.input(f"{run}.x"), unregularized=True), case.tensors[f"{run}.moments"]
        with recorded_draws([("gauss", case.tensors[f"{run}.noise"])]):
            yield f"{run}.sample", vae.encode(case.input(f"{run}.x")), case.tensors[f"{run}.sample"]


def vae_dec(case: Case) -> Compared:
    """Compare decoded frames."""
    vae = recorded_vae(case)
    for run in case.meta["runs"]:
        yield f"{run}.frames", vae.decode(case.input(f"{run}.z")), case.tensors[f"{run}.frames"]


def sampler(case: Case) -> Compared:
    """Compare a run of a sampler: its latents, and the noise levels and timesteps that the network got."""
    denoiser = Mixture(case.tensors["mu"], case.tensors["var"], case.meta["param"])
    x, scale = case.input("noise"), case.meta.get("call_scale_tensor")
    arguments = {"scale": torch.tensor(scale)} if scale else dict(case.meta.get("call_kwargs", {}))
    name = case.config["target"].rpartition(".")[2]
    before = [None] if name == "Image2VideoDDIMSampler" else []  # two samplers take one more argument
    after = [case.input("image") if "image" in case.tensors else None] if name == "SdeditEDMSampler" else []
    with case.draws():
        out = build(case.config)(*before, denoiser, *after, x, {"crossattn": case.input("cond")},
                                 uc={"crossattn": case.input("uncond")}, **arguments)
    rows = len(x)
    yield "out", out, case.tensors["out"]
    yield "the noise given", x, case.tensors["noise"]
    yield "levels", torch.stack([level[-rows:] for level in denoiser.levels]), case.tensors["call_sigma"]
    if "call_idx" in case.tensors:
        yield "timesteps", torch.stack([idx[-rows:] for idx in denoiser.timesteps]), case.tensors["call_idx"]


def discretization(case: Case) -> Compared:
    """Compare the noise levels and timesteps of schedules."""
    for name, call in case.meta["specs"].items():
        levels = build(case.config[name.partition(".")[0]])(**call)
        if call.get("return_idx"):
            levels, indices = levels
            yield name + ".idx", torch.as_tensor(np.array(indices)), case.tensors[name + ".idx"]
        yield name + ".sigmas", levels, case.tensors[name + ".sigmas"]


def guiders(case: Case) -> Compared:
    """Compare guidance scales and guided estimates."""
    dynamic = build(case.config["guider_config"])
    unit = torch.tensor([[0.0], [1.0]], dtype=torch.float64)  # estimates 0 and 1: the result is the scale
    scales = [dynamic(unit, None, step_index=step).squeeze() for step in case.tensors["dyn.step_index"]]
    yield "scales", torch.stack(scales), case.tensors["dyn.scale_used"]
    plain = build({"target": PARTS + "guiders.VanillaCFG", "params": {"scale": case.config["vanilla_scale"]}})
    both = torch.cat([case.tensors["uncond"], case.tensors["cond"]])
    yield "plain", plain(both, None), case.tensors["vanilla.out"]
    yield "plain, scale 2", plain(both, None, scale=2.0), case.tensors["vanilla.out_scale2"]


def denoiser(case: Case) -> Compared:
    """Compare the denoised estimates of a linear network."""
    network = Linear(case.weights)
    for name, config in case.config["denoisers"].items():
        built = build(config)
        for level in case.meta["sig"][name]:
            known = {"idx": case.input(f"{level}.idx")} if f"{level}.idx" in case.tensors else {}
            out = built(network, case.input("x"), case.input(f"{level}.sigma"), {"crossattn": case.input("crossattn")},
                        **known)
            yield f"{name}.{level}", out, case.tensors[f"{name}.{level}.out"]


class Context(nn.Module):
    """A stand-in for the conditioner that returns the batch's text embedding."""

    def forward(self, batch: dict) -> dict:
        return {"crossattn": batch["ctx"]}


def loss(case: Case) -> Compared:
    """Compare training losses and their gradients."""
    for name, config in case.config["losses"].items():
        network, rows = Linear(case.weights), config.get("batch")
        batch = {"ctx": case.input("ctx")[:rows]}
        if config.get("concat"):
            batch["concat_images"] = case.input("concat")[:rows]
        with case.draws(f"{name}.draw.", case.meta["draws"][name]), torch.enable_grad():
            values = build(config["loss"])(network, build(config["denoiser"]), Context(), case.input("x")[:rows], batch)
            values.mean().backward()
        yield f"{name}.loss", values.detach(), case.tensors[f"{name}.loss"]
        for key, parameter in network.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            yield f"{name}.grad.{key}", gradient, case.tensors[f"{name}.grad.{key}"]


def with_t5(config: dict) -> dict:
    """Return a conditioner's configuration with the recorded text encoder."""
    config = copy.deepcopy(config)
    for embedder in config["params"]["emb_models"]:
        embedder["params"]["model_dir"] = str(FOLDER / "t5")
    return config


def cond(case: Case) -> Compared:
    """Compare text embeddings of prompts and negative prompts, and with dropout as in training."""
    conditioner = build(with_t5(case.config))
    batch, negative = {"txt": case.meta["prompts"]}, {"txt": case.meta["negative_prompts"]}
    c, zeroed = conditioner.get_unconditional_conditioning(batch, negative, force_uc_zero_embeddings=["txt"])
    _, uc = conditioner.get_unconditional_conditioning(batch, negative)
    with recorded_draws([("bernoulli", case.tensors["ucg.keep"])]):
        trained = conditioner(batch)
    for name, value in {"c": c, "uc_forced_zero": zeroed, "uc": uc, "train_forward": trained}.items():
        yield name, value["crossattn"], case.tensors[name]


def engine(case: Case) -> Compared:
    """Compare a run of the whole engine: text embeddings and latents."""
    config = copy.deepcopy(case.config["model"])
    config["conditioner_config"] = with_t5(config["conditioner_config"])
    built = DiffusionEngine(Namespace(model_config=OmegaConf.create(config), fp16=False, bf16=False, device="cpu"))
    first_stage = recipe_weights(built.first_stage_model, case.meta["first_stage_recipe_seed"])
    built.load_state_dict(case.weights | {f"first_stage_model.{k}": v for k, v in first_stage.items()}, strict=True)
    prompts, negative = {"txt": case.meta["prompts"]}, {"txt": case.meta["negative_prompts"]}
    c, uc = built.eval().conditioner.get_unconditional_conditioning(prompts, negative, force_uc_zero_embeddings=["txt"])
    yield "c", c["crossattn"], case.tensors["c"]
    c["concat"] = uc["concat"] = case.input("concat")
    with case.draws():
        z = built.sample(c, uc=uc, batch_size=1, shape=tuple(case.meta["shape"]), ofs=torch.tensor([2.0]))
    yield "latents", z, case.tensors["samples_z"]


KINDS = {kind.__name__: kind for kind in (dit, vae_enc, vae_dec, sampler, discretization, guiders, denoiser, loss, cond,
                                          engine)}
