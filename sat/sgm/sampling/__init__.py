"""Samplers: from unit noise to latents over a schedule of (alpha, sigma), each defined by its step."""
from sgm.sampling.adams import DEISSampler, DPMPP3MSampler, SASolverSampler, SDEDPMPP3MSampler, UniPCSampler
from sgm.sampling.base import Sampler, StepInfo
from sgm.sampling.compatibility import check_compatible, evaluated_branches, idle_branches
from sgm.sampling.guided import PassPlan, StepState
from sgm.sampling.inversion import invert, undoes_inversion
from sgm.sampling.multistep import (
    DPMPP2MSampler,
    GradientEstimationSampler,
    IPNDMSampler,
    LinearMultistepSampler,
    RESMultistepSampler,
    SDEDPMPP2MSampler,
    VPODEDPMPP2MSampler,
    VPSDEDPMPP2MSampler,
)
from sgm.sampling.restart import RestartSampler
from sgm.sampling.runge_kutta import AdaptiveSampler, RungeKutta3Sampler
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
from sgm.sampling.start import Continuing, FromClip, FromLevel, Start
from sgm.sampling.stochastic import DPMPPSDESampler, ERSDESampler

__all__ = [
    "AdaptiveSampler", "Continuing", "DDIMSampler", "DEISSampler", "DPMPP2MSampler", "DPMPP2SAncestralSampler",
    "DPMPP3MSampler", "DPMPPSDESampler", "ERSDESampler", "EulerAncestralSampler", "EulerEDMSampler", "FromClip",
    "FromLevel", "GradientEstimationSampler", "HeunEDMSampler", "IPNDMSampler", "Image2VideoDDIMSampler",
    "LinearMultistepSampler", "PassPlan", "RESMultistepSampler", "RestartSampler", "RungeKutta3Sampler",
    "SASolverSampler", "SDEDPMPP2MSampler", "SDEDPMPP3MSampler", "Sampler", "SdeditEDMSampler", "Start", "StepInfo",
    "StepState", "UniPCSampler", "VPODEDPMPP2MSampler", "VPSDEDPMPP2MSampler", "VideoDDIMSampler", "VideoDDPMSampler",
    "check_compatible", "evaluated_branches", "idle_branches", "invert", "undoes_inversion",
]
