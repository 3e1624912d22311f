"""Samplers: from unit noise to latents, each one short step over a schedule of (alpha, sigma)."""
from sgm.sampling.base import Sampler, StepInfo
from sgm.sampling.compatibility import check_compatible
from sgm.sampling.inversion import invert, undoes_inversion
from sgm.sampling.multistep import (
    DPMPP2MSampler,
    LinearMultistepSampler,
    SDEDPMPP2MSampler,
    VPODEDPMPP2MSampler,
    VPSDEDPMPP2MSampler,
)
from sgm.sampling.single_step import (
    DDIMSampler,
    DPMPP2SAncestralSampler,
    EulerAncestralSampler,
    EulerEDMSampler,
    HeunEDMSampler,
    Image2VideoDDIMSampler,
    SdeditEDMSampler,
    VideoDDIMSampler,
    VideoDDPMSampler,
)
from sgm.sampling.start import FromClip, FromLevel, Start

__all__ = [
    "DDIMSampler", "DPMPP2MSampler", "DPMPP2SAncestralSampler", "EulerAncestralSampler", "EulerEDMSampler",
    "FromClip", "FromLevel", "HeunEDMSampler", "Image2VideoDDIMSampler", "LinearMultistepSampler", "SDEDPMPP2MSampler",
    "Sampler", "SdeditEDMSampler", "Start", "StepInfo", "VPODEDPMPP2MSampler", "VPSDEDPMPP2MSampler",
    "VideoDDIMSampler", "VideoDDPMSampler", "check_compatible", "invert",
    "undoes_inversion",
]
