"""The memory that training takes between its steps, for validation and for samples, beside what is kept all the time.

Both run the averaged weights without gradients: validation on a batch of held-out clips, sampling on all branches of
guidance of one video, which is then decoded. Without a latent cache held-out clips are encoded first.
"""
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from common.compression import Compression
from common.patches import parse_patch_size
from configuration.model import ModelConfig
from configuration.settings import Arguments, RunSettings
from dry_run.memory import META, TRANSFORMER, decoding, forward_pass, frames_of_pass
from dry_run.meter import measure
from dry_run.passes import network_calls
from media.clips import ClipFormat
from vae_modules.autoencoder import VideoAutoencodingEngine

VALIDATION, SAMPLING = "validation", "sampling"


@dataclass(frozen=True)
class BetweenSteps:
    """The parts that validation and sampling compute with: transformer and autoencoder, both on the meta device."""

    args: Arguments
    model: ModelConfig
    form: ClipFormat
    network: nn.Module
    vae: VideoAutoencodingEngine

    def bytes(self, clips: int) -> Iterator[tuple[str, int]]:
        """Yield the phases that a run has, each with its bytes; `clips` are those of a forward pass in training."""
        training = self.args.training
        if training.valid_data and training.eval_interval:
            yield VALIDATION, self._validation(training.eval_batch_size or clips)
        if training.sample_interval:
            yield SAMPLING, self._sampling()

    def _validation(self, clips: int) -> int:
        size = padded_size(self.form, self.model)
        forward = forward_pass(self.network, self.model.network_config["params"], clips, size, self._dtype, clips)
        most, _ = measure(lambda: forward().float().square().mean(), self.args.run.device)
        if self.args.training.latent_cache is not None:
            return most
        at_a_time = min(clips, self.model.en_and_decode_n_samples_a_time or clips)
        encoding = encoding_bytes(self.vae, self.form, at_a_time, self.args.run)
        return clip_bytes(self.form, clips, self.model) + max(most, encoding)

    def _sampling(self) -> int:
        settings = replace(self.args.sampling, batch_size=1, strength=None, invert=False)
        rows = max(call.rows for call in network_calls(settings, self.model)[TRANSFORMER])
        frames, *sides = padded_size(self.form, self.model)
        shown = frames_of_pass(self.model, frames), sides[0], sides[1]
        forward = forward_pass(self.network, self.model.network_config["params"], rows, shown, self._dtype)
        return max(measure(forward, self.args.run.device)[0], self._given(), self._decoding())

    def _given(self) -> int:
        """Return the bytes of encoding what a sample starts from or follows: a picture, a control clip, or nothing."""
        form = self.form if self.model.control_input else replace(self.form, max_num_frames=1)
        given = self.model.control_input or self.model.noised_image_input
        return encoding_bytes(self.vae, form, 1, self.args.run) if given else 0

    def _decoding(self) -> int:
        if self.args.training.only_log_video_latents:
            return 0
        frames, (height, width) = self.form.max_num_frames, self.form.video_size
        compression = Compression.of_first_stage(self.model.first_stage_config)
        channels = self.model.network_config["params"]["out_channels"]
        latents = torch.empty(1, channels, compression.latent_frames(frames), *compression.latent_size(height, width),
                              dtype=self._dtype, device=META)
        written = 2 * 3 * frames * height * width if self.args.run.device.type == "cpu" else 0  # and a contact sheet's
        return decoding(self.vae, latents, self.args.run.device)[0] + written

    @property
    def _dtype(self) -> torch.dtype:
        return self.args.run.dtype


def padded_size(form: ClipFormat, model: ModelConfig) -> tuple[int, int, int]:
    """Return the latent size (T, h, w) of clips of this form, with the padding of patches."""
    compression = Compression.of_first_stage(model.first_stage_config)
    frames = compression.latent_frames(form.max_num_frames)
    height, width = compression.latent_size(*form.video_size)
    return frames + -frames % parse_patch_size(model.network_config["params"]["patch_size"])[0], height, width


def clip_bytes(form: ClipFormat, clips: int, model: ModelConfig) -> int:
    """Return the bytes of clips as they are read, in float32, with the control clips that a model may have."""
    height, width = form.video_size
    return 4 * clips * (2 if model.control_input else 1) * 3 * form.max_num_frames * height * width


def encoding_bytes(vae: VideoAutoencodingEngine, form: ClipFormat, clips: int, run: RunSettings) -> int:
    """Return the most bytes that encoding clips of this form takes, with the clips in the run's dtype."""
    video = torch.empty(clips, 3, form.max_num_frames, *form.video_size, dtype=run.dtype, device=META)
    return measure(lambda: vae.encode(video, unregularized=True), run.device)[0] + video.nbytes
