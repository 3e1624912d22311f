"""The engine: a video diffusion model built from YAML, which samples latents and computes the training loss."""
import logging
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from common.compression import FRAME_CHANNELS
from common.errors import ConfigError
from common.patches import parse_patch_size
from common.tensors import Generators, draw_noise
from configuration.model import NO_SAMPLER, ModelConfig
from configuration.settings import resolve_dtype
from configuration.targets import get_obj_from_str, instantiate_from_config
from engine.checks import check_fit
from engine.first_stage import LatentCodec
from engine.latent_shape import batch_of, shape_of
from engine.weak_network import build_weak
from memory.offload import Offload
from network.attention_kernels import attention_shape, use_attention_kernel
from network.layer_runner import AllLayers
from network.token_division import DividedLayers
from parallel import groups
from parallel.guidance import SharedBranches
from sgm.conditioning import Conditioning
from sgm.sampling import FromLevel, PassPlan, Sampler, Start, StepInfo, invert
from sgm.windows import TimeWindows, bind
from weights.lora_names import MATRICES

logger = logging.getLogger(__name__)

IN_NETWORKS_DTYPE = ("crossattn", "concat")  # of the conditioning: labels and times would lose digits
TRANSFORMER_PREFIX = "model.diffusion_model."
OFS = 2.0  # the only value that models with an `ofs` embedding are trained and sampled with
FRAME_NOISE = (-3.0, 0.5)  # mean and deviation of log(sigma) of the conditioning image's noise in training


def build_codec(args: Namespace) -> LatentCodec:
    """Build the first stage alone, to decode latents that were sampled earlier."""
    model = ModelConfig.read(args.model_config)
    codec = LatentCodec(model.first_stage_config, model.scale_factor, model.disable_first_stage_autocast,
                        compiled=model.compile_first_stage)
    return codec.to(device=args.device, dtype=resolve_dtype(args.fp16, args.bf16))


def freeze(parameters: Iterable[tuple[str, nn.Parameter]], prefixes: Sequence[str]) -> None:
    """Freeze the parameters whose names begin with one of the prefixes ("all": all of them), but never a LoRA's."""
    for name, parameter in parameters:
        frozen = any(prefix == "all" or name.startswith(prefix) for prefix in prefixes)
        if frozen and not any(part in name for part in MATRICES):
            parameter.requires_grad_(False)


def check_prefixes(engine: "DiffusionEngine") -> None:
    """Raise ConfigError for a prefix of `not_trainable_prefixes` that is the beginning of no parameter's name.

    The parts that an engine may lack, since training has their output in a cache, are not looked for.
    """
    names = [name for name, _ in engine.named_parameters()]
    for prefix in engine.config.not_trainable_prefixes:
        absent = prefix == "all" or prefix.startswith(("first_stage_model", "conditioner"))
        if not absent and not any(name.startswith(prefix) for name in names):
            raise ConfigError(f"model.not_trainable_prefixes: no parameter's name begins with {prefix!r}; the "
                              f"transformer's begin with {TRANSFORMER_PREFIX}, such as {names[0]}")


class DiffusionEngine(LatentCodec):
    """The engine: conditioner, network, denoiser, sampler, loss and first stage, built from `args.model_config`.

    `args.fp16` and `args.bf16` set the dtype of all weights, `args.device` their device. State-dict prefixes:
    `model.diffusion_model.`, `conditioner.`, `first_stage_model.`. `network` may be one that is built and loaded
    already (`weights.network.build_network`); None builds one. Raises ConfigError for parts that do not fit each other.
    """

    def __init__(self, args: Namespace, network: nn.Module | None = None):
        config = ModelConfig.read(args.model_config)
        check_fit(config)
        super().__init__(config.first_stage_config, config.scale_factor, config.disable_first_stage_autocast,
                         config.en_and_decode_n_samples_a_time, config.compile_first_stage)
        self.config = config
        self.offload: Offload | None = None
        self.sharing: SharedBranches | None = None  # processes that share the branches of guidance
        self.last_frame_rate = 0.0  # in training: share of clips whose last frame is given, too
        if network is None:
            network = instantiate_from_config(config.network_config)
        wrapper = get_obj_from_str(config.network_wrapper or "sgm.wrappers.OpenAIWrapper", "model.network_wrapper")
        compiled = {"compile_model": config.compile_model} | (
            {"compile_dynamic": True} if config.compile_dynamic else {})  # which a wrapper of your own may not know
        self.model = wrapper(network, **compiled)
        self.conditioner = instantiate_from_config(config.conditioner_config)
        self.denoiser = instantiate_from_config(config.denoiser_config)
        has_sampler = config.sampler_config is not None
        self.sampler: Sampler | None = instantiate_from_config(config.sampler) if has_sampler else None
        self.step_cache: Any = config.step_cache_config and instantiate_from_config(config.step_cache_config)
        weak = self.sampler and build_weak(self.sampler.guider, config.network_config)
        sizes = config.time_windows
        self.windows = None if sizes is None else TimeWindows(sizes[0], sizes[1], self.patch_t)
        self.weak_model = None if weak is None else wrapper(weak, **compiled)
        self.loss_fn: Any = config.loss_fn_config and instantiate_from_config(config.loss_fn_config)
        self.to(device=args.device, dtype=resolve_dtype(args.fp16, args.bf16))

    @property
    def network(self) -> nn.Module:
        """The transformer itself, whose weights a checkpoint holds under `model.diffusion_model.`."""
        return self.model.diffusion_model

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device if self.offload is None else self.offload.device

    @property
    def patch_t(self) -> int:
        return parse_patch_size(self.config.network_config["params"]["patch_size"])[0]

    @property
    def image_latent_scale(self) -> float:
        """The factor on the VAE's latent of the conditioning image, before the network is given it."""
        if self.config.image_latent_scale is not None:
            return self.config.image_latent_scale
        return 1.0 if self.patch_t > 1 else self.scale_factor

    def divide_among_processes(self) -> None:
        """Divide branches and their tokens among processes, by the groups that `parallel.launch.launched` made."""
        group, ranks = groups.guidance_group()
        self.sharing = None if group is None or len(ranks) == 1 else SharedBranches(group, ranks)
        for model in (self.model, self.weak_model):
            if model is not None:
                token_group = groups.sequence_group()
                divided = len(token_group[1]) > 1
                model.diffusion_model.layer_runner = DividedLayers(*token_group) if divided else AllLayers()

    def predict(self, x: Tensor, timesteps: Tensor, cond: Mapping[str, Tensor], weak: bool = False, **inputs) -> Tensor:
        """Run the network on x in the network's dtype and return its output in x's; adds `ofs` if the model has it.

        `weak` runs the weaker network, which the sampler's guider must have.
        """
        if self.config.network_config["params"].get("ofs_embed_dim") is not None and inputs.get("ofs") is None:
            inputs["ofs"] = torch.full((1,), OFS, device=x.device)
        cond = {key: value.to(self.dtype) if key in IN_NETWORKS_DTYPE else value for key, value in cond.items()}
        model = self.weak_model if weak else self.model
        assert model is not None, "the guider has no weaker network"
        return model(x.to(self.dtype), timesteps, cond, **inputs).to(x.dtype)

    @torch.no_grad()
    def sample(self, cond: Conditioning | Mapping[str, Tensor], uc: Mapping[str, Tensor] | None = None,
               batch_size: int | None = None, shape: Sequence[int] | None = None,
               generator: torch.Generator | Sequence[torch.Generator] | None = None,
               num_steps: int | None = None, scale: float | Tensor | None = None,
               callback: Callable[[StepInfo], None] | None = None, start: Start | None = None,
               noise: Tensor | None = None, **network_inputs) -> Tensor:
        """Sample latents (B, T, C, H, W), padding latents included, of a conditioning with B rows.

        `cond` is a conditioning, or its conditional half beside its unconditional one, `uc` (None: no guidance).
        `batch_size` B and `shape` (T, C, H, W) follow from conditioning and model, and are checked if given. `start`
        None starts from noise; else it is a clip or an inversion to start from. `noise` is unit noise to start from, in
        place of drawn noise. `generator` None draws from torch's global state; one generator serves all rows; one per
        row makes each row independent of the others. Raises ConfigError for inputs that do not fit each other or the
        model, NumericalError naming the step whose result is not finite.
        """
        conditioning = Conditioning.of(cond, uc)
        rows = batch_of(conditioning, batch_size)
        noise = self._noise((rows, *shape_of(self.config, conditioning, shape)), generator, noise)
        plan = PassPlan(self.step_cache, self.sharing, self.config.guidance_one_by_one)
        with self._attention(noise, conditioning):
            return self._sampler(self._bound_denoiser(), noise, conditioning, num_steps=num_steps, scale=scale,
                                 generator=generator, callback=callback, start=start, plan=plan, **network_inputs)

    def _noise(self, shape: tuple[int, ...], generator: Generators, given: Tensor | None) -> Tensor:
        """Return unit noise of a shape (B, T, C, H, W): the given one, or drawn and ordered for windows."""
        if given is not None:
            if given.shape != shape:
                raise ConfigError(f"the noise is {list(given.shape)}, and the videos' latents are {list(shape)}: "
                                  "(videos, latent frames, channels, height, width)")
            return given.to(self.device, torch.float32)
        noise = draw_noise(torch.empty(shape, dtype=torch.float32, device=self.device), generator)
        return noise if self.windows is None else self.windows.rescheduled(noise, generator)

    @torch.no_grad()
    def invert(self, latents: Tensor, cond: Conditioning | Mapping[str, Tensor], num_steps: int | None = None,
               strength: float = 1.0, callback: Callable[[StepInfo], None] | None = None, **network_inputs
               ) -> FromLevel:
        """Return the start from which `sample` without guidance reaches latents (B, T, C, H, W): `sgm.sampling.invert`.
        """
        conditioning = Conditioning.of(cond)
        with self._attention(latents, conditioning):
            return invert(self._sampler, self._bound_denoiser(), latents, conditioning, num_steps, strength, callback,
                          **network_inputs)

    def _attention(self, latents: Tensor, conditioning: Conditioning) -> AbstractContextManager[None]:
        """Return a context manager that uses the configured kernel for attention on latents (B, T, C, H, W)."""
        if self.config.attention_kernel is None:
            return nullcontext()
        if self.windows is not None and self.config.windows_below is None:
            latents = latents[:, :self.windows.size]
        shape = attention_shape(self.config.network_config, latents, conditioning.cond["crossattn"].shape[1])
        return use_attention_kernel(self.config.attention_kernel, shape, self.dtype, latents.device)

    @property
    def _sampler(self) -> Sampler:
        if self.sampler is None:
            raise ConfigError(NO_SAMPLER)
        return self.sampler

    def _bound_denoiser(self) -> Callable:
        return bind(self.denoiser, self.predict, self._sampler.discretization.parameterization, self.windows,
                    self.config.windows_below)

    def encode_clip(self, video: Tensor) -> Tensor:
        """Return latents (B, T, C, h, w) of a video (B, 3, frames, H, W): the posterior's mean, padded in front."""
        return self._padded(self.encode_first_stage(video, sample_posterior=False).transpose(1, 2).float())

    def encode_image(self, image: Tensor, latent_frames: int, generator: torch.Generator | None = None,
                     last: Tensor | None = None) -> Tensor:
        """Return `cond["concat"]` (B, latent_frames, C, h, w) for images (B, 3, H, W).

        The image latent is in the first latent frame, with zeros after it, or in all frames: `noised_image_all_concat`.
        That of a `last` image is in the last latent frame.
        """
        first, final = (None if given is None else self._image_latent(given[:, :, None], generator)
                        for given in (image, last))
        assert first is not None
        return self._over_frames(first, latent_frames, final)

    def _image_latent(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the latent (B, 1, C, h, w) of images as videos of one frame, (B, 3, 1, H, W)."""
        latent = self.encode_first_stage(image, generator) / self.scale_factor * self.image_latent_scale
        return latent.transpose(1, 2)

    def shared_step(self, batch: Mapping) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Return a batch's training loss and a dict to log: `loss`, `loss_per_sample` (B,), `timesteps` (B,).

        `batch[input_key]` is a video (B, T, 3, H, W) in [-1, 1], or latents with `latent_input`. Image-to-video on
        latents also needs the first frame, `batch["image"]` (B, 3, H, W), or the VAE's latent of the noised first
        frame, `batch["image_latents"]` (B, 1, C, h, w). A model with control input needs `batch["control"]`, a video
        like the other, or the VAE's latents of it, `batch["control_latents"]`. `batch["counted"]` (B, t), if present,
        is 1 for latent frames that count in the loss.
        """
        if self.loss_fn is None:
            raise ConfigError("model.loss_fn_config is missing; give the loss's target and params")
        batch = dict(batch)
        video = batch[self.config.input_key].to(self.device)
        is_latent = self.config.latent_input and video.shape[2] != FRAME_CHANNELS
        image = self._noised_image(batch, None if is_latent else video)
        if is_latent:
            latents = video * self.scale_factor
        else:
            latents = self.encode_first_stage(video.transpose(1, 2)).transpose(1, 2)
        latents = self._padded(latents.float())
        if "counted" in batch:
            batch["counted"] = self._padded(batch["counted"].to(self.device))
        if image is not None:
            last = self._noised_last(batch, None if is_latent else video)
            batch["concat_images"] = _dropped(self._over_frames(image, latents.shape[1], last),
                                              self.config.noised_image_dropout)
        elif self.config.control_input:
            batch["concat_images"] = _dropped(self._control(batch), self.config.control_dropout)
        terms = self.loss_fn.terms(self.predict, self.denoiser, self.conditioner.dropped, latents, batch)
        loss = terms.loss.mean()
        return loss, {"loss": loss.detach(), "loss_per_sample": terms.loss.detach(), "timesteps": terms.timesteps}

    def disable_untrainable_params(self) -> None:
        """Freeze the parameters that `not_trainable_prefixes` names, except LoRA's matrices."""
        freeze(self.named_parameters(), self.config.not_trainable_prefixes)

    def _control(self, batch: Mapping) -> Tensor:
        """Return the scaled latents (B, T, C, h, w) of a batch's control clips, padded as the latents are."""
        if "control_latents" in batch:
            return self._padded(batch["control_latents"].to(self.device).float() * self.scale_factor)
        if "control" not in batch:
            raise ValueError("training with control clips needs batch['control'] or batch['control_latents']")
        return self.encode_clip(batch["control"].to(self.device).transpose(1, 2))

    def _noised_image(self, batch: Mapping, video: Tensor | None) -> Tensor | None:
        """Return the latent (B, 1, C, h, w) of the first frame with noise of sigma = exp(N(-3, 0.5)), drawn per clip.

        None if the model is not image-to-video. A cached `batch["image_latents"]` has its noise already.
        """
        if not self.config.noised_image_input:
            return None
        if "image_latents" in batch:
            return batch["image_latents"].to(self.device) * self.image_latent_scale
        if "image" not in batch and video is None:
            raise ValueError("image-to-video training on latents needs batch['image'] or batch['image_latents']")
        return self._noised(video[:, 0] if video is not None and "image" not in batch else batch["image"])

    def _noised_last(self, batch: Mapping, video: Tensor | None) -> Tensor | None:
        """Return the noised latent of the last frame, zero for all but a share `last_frame_rate` of the clips.

        None if that share is 0.
        """
        if not self.last_frame_rate:
            return None
        if "last_latents" in batch:
            last = batch["last_latents"].to(self.device) * self.image_latent_scale
        elif video is not None:
            last = self._noised(video[:, -1])
        else:
            raise ValueError("training with last frames on latents needs batch['last_latents']")
        given = torch.rand(len(last), device=last.device) < self.last_frame_rate
        return last * given.view(-1, 1, 1, 1, 1)

    def _noised(self, frames: Tensor) -> Tensor:
        """Return the latent (B, 1, C, h, w) of frames (B, 3, H, W) with noise of sigma = exp(N(-3, 0.5))."""
        image = frames.to(self.device)[:, :, None]
        sigma = torch.normal(*FRAME_NOISE, size=(len(image),)).exp().to(image)
        return self._image_latent(image + sigma.view(-1, 1, 1, 1, 1) * draw_noise(image))

    def _over_frames(self, image: Tensor, latent_frames: int, last: Tensor | None = None) -> Tensor:
        if self.config.noised_image_all_concat:
            return image.repeat(1, latent_frames, 1, 1, 1)
        rest = image.new_zeros(image.shape[0], latent_frames - 1, *image.shape[2:])
        if last is not None:
            rest[:, -1:] = last
        return torch.cat((image, rest), dim=1)

    def _padded(self, latents: Tensor) -> Tensor:
        """Put copies of the first latent frame in front, until the count divides into patches."""
        missing = -latents.shape[1] % self.patch_t
        return torch.cat((latents[:, :1].repeat_interleave(missing, 1), latents), dim=1) if missing else latents


def _dropped(latents: Tensor, rate: float) -> Tensor:
    """Return latents (B, ...) with a share of the rows, drawn for each, set to zero."""
    if rate <= 0:
        return latents
    keep = torch.rand(len(latents), device=latents.device) >= rate
    return latents * keep.view(-1, 1, 1, 1, 1)


SATVideoDiffusionEngine = DiffusionEngine
