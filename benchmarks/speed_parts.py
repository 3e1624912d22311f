"""The parts of the work that benchmarks.speed compares, each a pair of calls on the same weights and inputs."""
import tempfile
from collections.abc import Callable
from dataclasses import replace
from shutil import copy

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from benchmarks.command_runs import PROMPT
from benchmarks.random_folder import T5_XXL, VOCABULARY
from benchmarks.random_models import SCALE, our_engine, our_network, our_vae
from benchmarks.setting import Setting
from benchmarks.speed_measure import Pair
from benchmarks.speed_models import rotary, their_network, their_vae
from common.compression import COGVIDEOX
from common.files import from_repository
from diffusion_video import DiffusionEngine
from engine.text_encoder import FrozenT5Embedder
from network.attention_kernels import attention_shape
from sgm.sampling.start import FromLevel


def transformer(setting: Setting) -> Pair:
    """Compare one forward pass with both branches of a guided step."""
    model = setting.size.model()
    ours = our_network(model, setting.device, setting.dtype)
    theirs = their_network(model, ours)
    setting.compile(ours, theirs)
    x, text = setting.noise(2, *setting.size.latent), setting.text(2)
    times = torch.full((2,), 500.0, device=setting.device)
    tables = rotary(ours, setting.size, setting.device)
    shape = attention_shape(model["network_config"], x, setting.size.text_length)

    def our_pass() -> Tensor:
        with setting.attending(shape):
            return ours(x, times, text)

    return Pair(our_pass, lambda: theirs(x, text, times, image_rotary_emb=tables, return_dict=False)[0])


def step(setting: Setting) -> Pair:
    """Compare one step of guided sampling, from latents to latents."""
    return _sampled(setting, *_engines(setting), steps=1, decoded=False)


def whole(setting: Setting) -> Pair:
    """Compare all steps from noise and decoding the video; text embeddings are given."""
    setting = replace(setting, size=setting.size.as_decoded())
    ours, theirs = _engines(setting)
    steps = setting.size.steps
    full, short = (_sampled(setting, ours, theirs, n, decoded=True) for n in (steps, 1))
    return replace(full, short=short, rest=_sampled(setting, ours, theirs, 1, decoded=False), times=steps - 1)


def _engines(setting: Setting) -> tuple[DiffusionEngine, CogVideoXPipeline]:
    """Return our engine and diffusers' pipeline with the same weights."""
    model = setting.size.model()
    ours = our_engine(model | {"attention_kernel": setting.attention}, setting.device, setting.dtype)
    scheduler = CogVideoXDDIMScheduler(timestep_spacing="trailing", prediction_type="v_prediction", clip_sample=False)
    theirs = CogVideoXPipeline(None, None, their_vae(model, ours.first_stage_model),
                               their_network(model, ours.network), scheduler)
    theirs.set_progress_bar_config(disable=True)
    setting.compile(ours.network, theirs.transformer)
    return ours, theirs


def _sampled(setting: Setting, ours: DiffusionEngine, theirs: CogVideoXPipeline, steps: int, decoded: bool) -> Pair:
    """Return `steps` steps of guided sampling by both sides, with decoding if `decoded`."""
    size, text = setting.size, setting.text(1)
    zeros, noise = torch.zeros_like(text), setting.noise(1, *size.latent).float()

    def our_run() -> Tensor:
        latents = ours.sample({"crossattn": text}, {"crossattn": zeros}, 1, size.latent, num_steps=steps,
                              start=FromLevel(noise, 0))
        return ours.decode_first_stage(latents[:, size.padding:].transpose(1, 2)) if decoded else latents

    def their_run() -> Tensor:
        use_levels(theirs.scheduler, ours.sampler.discretization, steps)
        frames, (height, width) = COGVIDEOX.video_frames(size.latent[0]), COGVIDEOX.video_size(*size.latent[2:])
        latents = theirs(
            prompt_embeds=text, negative_prompt_embeds=zeros, latents=noise.to(setting.dtype), guidance_scale=SCALE,
            num_inference_steps=steps, num_frames=frames, height=height, width=width, output_type="latent").frames
        return theirs.decode_latents(latents[:, size.padding:]) if decoded else latents

    return Pair(our_run, their_run)


def use_levels(scheduler: CogVideoXDDIMScheduler, discretization, steps: int) -> None:
    """Set our noise levels in diffusers' scheduler, which rescales the whole table instead of the chosen steps."""
    timesteps = torch.from_numpy(discretization.timesteps(steps).copy())
    levels = torch.from_numpy(discretization.levels(steps)[::-1].copy())
    scheduler.alphas_cumprod[timesteps] = levels.to(scheduler.alphas_cumprod) ** 2


def decode(setting: Setting) -> Pair:
    """Compare decoding latents to frames, in the chunks that the release decodes."""
    ours, theirs, z = _codecs(setting)
    return Pair(lambda: ours.decode(z), lambda: theirs.decode(z).sample)


def encode(setting: Setting) -> Pair:
    """Compare encoding frames to the posterior's moments, eight frames at a time."""
    ours, theirs, z = _codecs(setting)
    frames, size = COGVIDEOX.video_frames(z.shape[2]), COGVIDEOX.video_size(*z.shape[3:])
    video = setting.noise(1, 3, frames, *size, seed=3)
    return Pair(lambda: ours.encode(video, unregularized=True), lambda: theirs.encode(video).latent_dist.parameters)


def _codecs(setting: Setting):
    """Return our autoencoder, diffusers' with the same weights, and random latents."""
    model = setting.size.model()
    ours = our_vae(model, setting.device, setting.dtype)
    channels = setting.size.latent[1]
    return ours, their_vae(model, ours), setting.noise(1, channels, *setting.size.decoded)


def t5(setting: Setting) -> Pair:
    """Compare the text embedding of a prompt; both sides run the encoder of transformers."""
    with tempfile.TemporaryDirectory() as folder:
        copy(from_repository(VOCABULARY), folder)
        with torch.device(setting.device):
            T5EncoderModel(T5Config(**T5_XXL | dict(setting.size.text))).to(setting.dtype).save_pretrained(folder)
        ours = FrozenT5Embedder(folder, str(setting.device), max_length=setting.size.text_length).to(setting.dtype)
    theirs = CogVideoXPipeline(ours.tokenizer, ours.transformer, None, None, None)
    return Pair(lambda: ours([PROMPT]), lambda: theirs.encode_prompt(
        PROMPT, do_classifier_free_guidance=False, device=setting.device,
        max_sequence_length=setting.size.text_length)[0])


COMPILED = ("transformer", "step", "whole")  # the parts that have a transformer, which --compile compiles
PARTS: dict[str, Callable[[Setting], Pair]] = {
    "transformer": transformer, "step": step, "decode": decode, "encode": encode, "t5": t5, "whole": whole}
