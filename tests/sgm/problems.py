"""Exact denoisers that stand in for a network, and samplers built from a few words."""
import torch

from sgm.util import instantiate_from_config

SHAPE = (2, 3, 2, 2, 2)
EDM = {"target": "sgm.discretizer.EDMDiscretization", "params": {"sigma_min": 0.02, "sigma_max": 20.0}}
LEGACY = {"target": "sgm.discretizer.LegacyDDPMDiscretization"}
ZERO_SNR = {"target": "sgm.discretizer.ZeroSNRDDPMDiscretization", "params": {"shift_scale": 3.0}}
SAMPLERS = ("EulerEDMSampler", "HeunEDMSampler", "EulerAncestralSampler", "DPMPP2SAncestralSampler", "DPMPP2MSampler",
            "SDEDPMPP2MSampler", "LinearMultistepSampler", "DDIMSampler", "VideoDDIMSampler", "VideoDDPMSampler",
            "Image2VideoDDIMSampler", "VPSDEDPMPP2MSampler", "VPODEDPMPP2MSampler")


def sampler_of(name, discretization=EDM, num_steps=10, guider=None, **params):
    return instantiate_from_config({"target": f"sgm.sampling.{name}", "params": {
        "discretization_config": discretization, "num_steps": num_steps, "guider_config": guider, **params}})


def guider_config(name="VanillaCFG", **params):
    return {"target": f"sgm.guiders.{name}", "params": params}


def unit_noise(seed=0, dtype=torch.float64, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Gaussian:
    """E[x0 | x] for data of standard deviation d around cond["crossattn"]'s mean; counts its calls and rows."""

    def __init__(self, parameterization="VE", d=0.5):
        self.vp, self.d = parameterization == "VP", d
        self.calls, self.rows = 0, 0

    def __call__(self, x, level, cond, idx=None, **inputs):
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        mean = cond["crossattn"].mean(dim=(1, 2)).to(x).view(-1, 1, 1, 1, 1)
        level = level.view(-1, 1, 1, 1, 1)
        alpha, noise = (level, 1 - level**2) if self.vp else (torch.ones_like(level), level**2)
        return mean + alpha * self.d**2 / (noise + alpha**2 * self.d**2) * (x - alpha * mean)


def conditions(value=1.0, batch=SHAPE[0]):
    return {"crossattn": torch.full((batch, 1, 1), value)}, {"crossattn": torch.zeros(batch, 1, 1)}
