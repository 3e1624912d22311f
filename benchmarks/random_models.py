"""Models of full and small sizes with random weights, so that benchmarks need no download."""
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt

import torch
from omegaconf import OmegaConf
from torch import nn

from arguments import get_args
from common.errors import ConfigError
from common.patches import parse_patch_size
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine

DDIM = {"target": "sgm.modules.diffusionmodules.sampling.VideoDDIMSampler"}
PLAIN_DENOISER = {"target": "sgm.modules.diffusionmodules.denoiser.Denoiser", "params": {
    "scaling_config": {"target": "sgm.modules.diffusionmodules.denoiser_scaling.VideoScaling"}}}
SCALE = 6.0


@dataclass(frozen=True)
class Size:
    """A model size: a preset, changes to its parts, and the latent sizes sampled (T, C, H, W) and decoded (t, h, w)."""

    preset: str
    latent: tuple[int, int, int, int]
    decoded: tuple[int, int, int]
    network: Mapping = field(default_factory=dict)
    vae: Mapping = field(default_factory=dict)
    text: Mapping = field(default_factory=dict)  # changes to the configuration of T5 v1.1 XXL
    text_width: int = 4096
    steps: int = 50

    def model(self) -> dict:
        """Return the preset's `model` section with the changes, without file paths, sampled like diffusers' DDIM."""
        model = OmegaConf.to_container(get_args(["--base", f"configs/{self.preset}.yaml"]).model_config)
        network, codec = model["network_config"]["params"], model["first_stage_config"]["params"]
        network.update(self.network)
        network["modules"]["patch_embed_config"]["params"]["text_hidden_size"] = self.text_width
        codec["ckpt_path"] = None
        for part in ("encoder_config", "decoder_config"):
            codec[part]["params"].update(self.vae)
        schedule = model["sampler_config"]["params"]["discretization_config"]
        guider = {"target": "sgm.modules.diffusionmodules.guiders.VanillaCFG", "params": {"scale": SCALE}}
        return model | {
            "conditioner_config": {"target": "sgm.modules.GeneralConditioner", "params": {"emb_models": []}},
            "denoiser_config": PLAIN_DENOISER, "loss_fn_config": None,
            "sampler_config": DDIM | {"params": {
                "num_steps": self.steps, "discretization_config": schedule, "guider_config": guider}}}

    def as_decoded(self) -> "Size":
        """Return this size with the decoded latent size for sampling, too."""
        height, width = self.decoded[1:]
        return replace(self, latent=(*self.latent[:2], height, width),
                       network={**self.network, "latent_height": height, "latent_width": width})

    def resized(self, layers: int, width: int, latent: Sequence[int]) -> "Size":
        """Return this size with as many layers, channels (heads of 64), and latents (T, h, w) to be sampled."""
        frames, height, width_of_latents = latent
        return replace(self, latent=(frames, self.latent[1], height, width_of_latents), network={
            **self.network, "num_layers": layers, "hidden_size": width, "num_attention_heads": width // 64,
            "latent_height": height, "latent_width": width_of_latents, "num_frames": 4 * frames - 3})

    def shaped(self, layers: int | None = None, width: int | None = None, tokens: int | None = None) -> "Size":
        """Return this size with other numbers of layers, channels, and tokens of a video's grid, as near as it comes.

        Raises ConfigError for channels that do not divide into heads of 64.
        """
        params = self.model()["network_config"]["params"]
        layers, width = layers or params["num_layers"], width or params["hidden_size"]
        if width % 64:
            raise ConfigError(f"--width {width} does not divide into heads of 64 channels; the nearest that does: "
                              f"{max(round(width / 64), 1) * 64}")
        frames, _, high, wide = self.latent
        if tokens is not None:
            time, *sides = parse_patch_size(params["patch_size"])
            each = max(round(tokens * time / frames), 1)
            rows = isqrt(each)
            high, wide = rows * sides[0], round(each / rows) * sides[1]
        return self.resized(layers, width, (frames, high, wide))

    @property
    def text_length(self) -> int:
        """Text tokens per prompt."""
        return self.model()["network_config"]["params"]["modules"]["pos_embed_config"]["params"]["text_length"]

    @property
    def padding(self) -> int:
        """Leading latent frames that are sampled but not decoded."""
        return self.latent[0] - self.decoded[0] if self.latent[0] % 2 == 0 else 0


SMALL_TEXT = {"d_model": 512, "d_ff": 1024, "num_layers": 6, "num_heads": 8, "vocab_size": 4096}
TINY_VAE = {"ch": 32, "ch_mult": [1, 1, 1, 2], "num_res_blocks": 1}
SIZES = {
    "tiny": Size("cogvideox_5b", (3, 16, 8, 8), (3, 8, 8), text_width=64, steps=2, vae=TINY_VAE, network={
        "num_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "latent_height": 8, "latent_width": 8,
        "num_frames": 9}, text={"d_model": 64, "d_ff": 128, "num_layers": 2, "num_heads": 1, "vocab_size": 512}),
    "small": Size("cogvideox_5b", (5, 16, 32, 32), (5, 16, 16), steps=2, text=SMALL_TEXT, network={
        "num_layers": 6, "hidden_size": 768, "num_attention_heads": 12, "latent_height": 32, "latent_width": 32,
        "num_frames": 17}),
    "2b": Size("cogvideox_2b", (13, 16, 60, 90), (13, 60, 90)),
    "5b": Size("cogvideox_5b", (13, 16, 60, 90), (13, 60, 90)),
    "1.5-5b": Size("cogvideox1.5_5b", (22, 16, 96, 170), (21, 96, 170), network={
        "latent_height": 96, "latent_width": 170}),
}


@torch.no_grad()
def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Redraw every parameter, so that every term counts: new models have closed gates and zero outputs."""
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.1)
    return module.eval().requires_grad_(False)


def our_network(model: Mapping, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return this project's transformer with random weights."""
    with torch.device(device):
        return randomize(instantiate_from_config(model["network_config"]).to(dtype))


def our_vae(model: Mapping, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return this project's autoencoder with random weights."""
    with torch.device(device):
        vae = randomize(instantiate_from_config(model["first_stage_config"]).to(dtype))
    vae.encode_in_chunks = True  # as diffusers does
    return vae


def our_engine(model: Mapping, device: torch.device, dtype: torch.dtype) -> DiffusionEngine:
    """Return the engine with random weights."""
    args = Namespace(model_config=OmegaConf.create(dict(model)), device=device, fp16=False,
                     bf16=dtype == torch.bfloat16)
    with torch.device(device):
        return randomize(DiffusionEngine(args))
