"""The compression of a video by an autoencoder: the size of its latent, and back."""
from collections.abc import Mapping
from dataclasses import dataclass

FRAME_CHANNELS = 3  # red, green, blue


@dataclass(frozen=True)
class Compression:
    """The factors of an autoencoder.

    `space` pixels along height and width become one latent pixel. `time` frames become one latent frame, but the first
    frame of a video stands alone.
    """

    space: int = 8
    time: int = 4

    @classmethod
    def of_first_stage(cls, config: Mapping) -> "Compression":
        """Return the factors of the autoencoder that a `first_stage_config` names, CogVideoX's where it names none."""
        decoder = ((config.get("params") or {}).get("decoder_config") or {}).get("params") or {}
        multipliers, time = decoder.get("ch_mult"), decoder.get("temporal_compress_times", cls.time)
        return cls(time=time) if multipliers is None else cls.of_levels(len(multipliers), time)

    @classmethod
    def of_levels(cls, levels: int, time: int) -> "Compression":
        """Return the factors of an autoencoder whose height and width are halved from each level to the next."""
        return cls(2 ** (levels - 1), time)

    def has_length(self, frames: int) -> bool:
        """Return True if a video of this many frames becomes a whole number of latent frames."""
        return frames >= 1 and (frames - 1) % self.time == 0

    def has_size(self, height: int, width: int) -> bool:
        """Return True if frames of this size become whole latent pixels."""
        return height % self.space == width % self.space == 0

    def latent_frames(self, frames: int) -> int:
        """Return the number of latent frames of a video."""
        return (frames - 1) // self.time + 1

    def video_frames(self, latent_frames: int) -> int:
        """Return the number of frames that are decoded from this many latent frames."""
        return self.time * (latent_frames - 1) + 1

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the latent of such frames."""
        return height // self.space, width // self.space

    def video_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the frames that are decoded from latents of this size."""
        return self.space * height, self.space * width


COGVIDEOX = Compression()  # all released models
