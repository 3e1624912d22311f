"""The compression of a video by CogVideoX's autoencoder: the sizes of its latent, and back.

SPACE pixels along height and width become one latent pixel; TIME frames become one latent frame, but the first frame of
a video stands alone.
"""
SPACE, TIME = 8, 4


def is_compressible(frames: int) -> bool:
    """Return True if a video of this many frames becomes a whole number of latent frames."""
    return frames >= 1 and (frames - 1) % TIME == 0


def latent_frames(frames: int, time: int = TIME) -> int:
    """Return the number of latent frames of a video."""
    return (frames - 1) // time + 1


def video_frames(latent_frames: int) -> int:
    """Return the number of frames that are decoded from this many latent frames."""
    return TIME * (latent_frames - 1) + 1
