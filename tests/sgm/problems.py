"""Short ways to build samplers, and the inputs of test problems for them."""
import torch

from benchmarks.exact import SHAPE, Gaussian
from configuration.targets import instantiate_from_config

__all__ = ["EDM", "LEGACY", "SAMPLERS", "SHAPE", "ZERO_SNR", "Gaussian", "conditions", "guider_config", "sampler_of",
           "unit_noise"]

EDM = {"target": "sgm.discretizer.EDMDiscretization", "params": {"sigma_min": 0.02, "sigma_max": 20.0}}
LEGACY = {"target": "sgm.discretizer.LegacyDDPMDiscretization"}
ZERO_SNR = {"target": "sgm.discretizer.ZeroSNRDDPMDiscretization", "params": {"shift_scale": 3.0}}
SAMPLERS = ("EulerEDMSampler", "HeunEDMSampler", "EulerAncestralSampler", "DPMPP2SAncestralSampler", "DPMPP2MSampler",
            "SDEDPMPP2MSampler", "LinearMultistepSampler", "DDIMSampler", "VideoDDIMSampler", "VideoDDPMSampler",
            "Image2VideoDDIMSampler", "VPSDEDPMPP2MSampler", "VPODEDPMPP2MSampler", "UniPCSampler", "DPMPP3MSampler",
            "SDEDPMPP3MSampler", "SASolverSampler", "DEISSampler", "RungeKutta3Sampler", "RestartSampler",
            "AdaptiveSampler", "DPMPPSDESampler", "ERSDESampler", "GradientEstimationSampler", "IPNDMSampler",
            "RESMultistepSampler")


def sampler_of(name, discretization=EDM, num_steps=10, guider=None, **params):
    """Build a sampler of sgm.sampling by name."""
    return instantiate_from_config({"target": f"sgm.sampling.{name}", "params": {
        "discretization_config": discretization, "num_steps": num_steps, "guider_config": guider, **params}})


def guider_config(name="VanillaCFG", **params):
    """Return the configuration of a guider of sgm.guiders."""
    return {"target": f"sgm.guiders.{name}", "params": params}


def unit_noise(seed=0, dtype=torch.float64, shape=SHAPE):
    """Return standard normal noise of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def conditions(value=1.0, batch=SHAPE[0]):
    """Return the conditional and the unconditional conditioning."""
    return {"crossattn": torch.full((batch, 1, 1), value)}, {"crossattn": torch.zeros(batch, 1, 1)}
