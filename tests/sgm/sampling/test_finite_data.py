"""Tests through the whole engine on a finite set of clips: every sampler ends at a clip of the requested half."""
from argparse import Namespace

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks.exact import FiniteData
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine
from sgm.parameterization import VP
from tests.sgm.problems import SAMPLERS, guider_config, sampler_of

SHAPE = (2, 4, 2, 2)
CLIPS = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(4))
ZERO_SNR = {"target": "sgm.discretizer.ZeroSNRDDPMDiscretization"}
SCHEDULES = {"edm": {"target": "sgm.discretizer.EDMDiscretization", "params": {"sigma_min": 0.03}},
             "released": ZERO_SNR, "ramp": {"target": "sgm.discretizer.VPRampDiscretization"},
             "flow": {"target": "sgm.discretizer.RectifiedFlowDiscretization"},
             "table": {"target": "sgm.discretizer.TabulatedDiscretization", "params": {"sigmas": "sdxl"}}}
SOLVERS = ("EulerEDMSampler", "HeunEDMSampler", "DPMPP2MSampler", "DPMPP3MSampler", "UniPCSampler", "DEISSampler",
           "LinearMultistepSampler", "RungeKutta3Sampler", "AdaptiveSampler")


class ExactNetwork(torch.nn.Module):
    """A network that makes the exact denoiser's v-prediction at the timesteps of the denoiser's table."""

    def __init__(self, clips, table):
        super().__init__()
        self.data, self.table = FiniteData(VP, clips), table
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, timesteps, cond):
        low = timesteps.long().clamp(max=len(self.table) - 2)
        level = torch.lerp(self.table[low], self.table[low + 1], (timesteps - low).to(self.table))
        alpha = level.view(-1, 1, 1, 1, 1)
        return (alpha * x - self.data(x, level, cond)) / (1 - alpha**2).sqrt()


@pytest.fixture(scope="module")
def engine(small_model):
    config = OmegaConf.load(small_model / "t2v.yaml").model
    engine = DiffusionEngine(Namespace(model_config=config, fp16=False, bf16=False, device="cpu"))
    engine.denoiser = instantiate_from_config({"target": "sgm.denoiser.DiscreteDenoiser", "params": {
        "num_idx": 1000, "quantize_c_noise": False, "discretization_config": ZERO_SNR,
        "scaling_config": {"target": "sgm.denoiser_scaling.VideoScaling"}}})
    engine.model = ExactNetwork(CLIPS, engine.denoiser.sigmas)
    return engine


def sample(engine, name, schedule, sides, num_steps=16, scale=2.0, **params):
    engine.sampler = sampler_of(name, SCHEDULES[schedule], num_steps, guider_config(scale=scale), **params)
    cond = {"crossattn": torch.tensor(sides).view(-1, 1, 1)}
    generators = [torch.Generator().manual_seed(i) for i in range(len(sides))]
    return engine.sample(cond, {"crossattn": torch.zeros(len(sides), 1, 1)}, len(sides), SHAPE, generators)


def nearest(out):
    """Return the index of each row's nearest clip (B,) and its distance (B,)."""
    distance, which = (out.flatten(1)[:, None] - CLIPS.flatten(1)).abs().amax(-1).min(dim=1)
    return which, distance


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_ends_at_a_clip_that_was_asked_for(engine, name, schedule):
    which, distance = nearest(sample(engine, name, schedule, [1.0, -1.0]))
    assert float(distance.max()) < 0.1  # Runge-Kutta evaluates below the lowest noise level of the network
    assert (which < 3).tolist() == [True, False]


@pytest.mark.slow
def test_solvers_find_the_clip_to_which_the_flow_leads(engine):
    sides = [0.0] * 6
    expected, _ = nearest(sample(engine, "RungeKutta3Sampler", "ramp", sides, 50, scale=1.0))
    assert len(set(expected.tolist())) > 2
    for name in SOLVERS:
        for schedule in ("edm", "released"):
            which, _ = nearest(sample(engine, name, schedule, sides, 50, scale=1.0))
            assert which.tolist() == expected.tolist(), (name, schedule)


@pytest.mark.parametrize("name", ["RungeKutta3Sampler", "EulerAncestralSampler", "SASolverSampler", "RestartSampler"])
def test_each_clip_comes_as_often_as_the_data_has_it(engine, name):
    which, distance = nearest(sample(engine, name, "ramp", [0.0] * 300, 16, scale=1.0))
    assert float(distance.max()) < 0.1
    shares = which.bincount(minlength=6) / 300
    assert float((shares - 1 / 6).abs().max()) < 0.08  # four standard deviations
