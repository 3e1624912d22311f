"""Tests of the memory estimate: exact for weights, and checked against the memory that a run takes."""

import pytest
import torch
from omegaconf import OmegaConf

from arguments import get_args
from common.files import REPOSITORY
from configuration.model import ModelConfig
from configuration.targets import instantiate_from_config
from dry_run.memory import (
    DECODER,
    ENCODER,
    TEXT,
    TRANSFORMER,
    decoding,
    estimate,
    free_memory,
    layer_bytes,
)
from dry_run.meter import measure
from engine.text_encoder import FrozenT5Embedder
from inference.sizes import model_limits, plan_video
from tests.random_model import write_model
from tests.vae_modules.small_vae import build
from vae_modules.tiling import Tiling

pytestmark = pytest.mark.slow


def estimated(path, *words, rows=2, device="cpu", **changes):
    args = get_args(["--base", str(path), *words]).changed(device=torch.device(device), **changes)
    model = ModelConfig.read(args.model_config)
    return estimate(args, model, plan_video(model_limits(args.model_config), args.sampling), rows)


def bytes_of(module):
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def test_weights_are_counted_exactly(small_model):
    costs = estimated(small_model / "t2v.yaml").costs
    config = OmegaConf.load(small_model / "t2v.yaml").model
    vae = instantiate_from_config(config.first_stage_config)
    assert costs[TRANSFORMER].weights == bytes_of(instantiate_from_config(config.network_config))
    assert (costs[ENCODER].weights, costs[DECODER].weights) == (bytes_of(vae.encoder), bytes_of(vae.decoder))
    t5 = FrozenT5Embedder(str(small_model / "t5")).transformer
    assert costs[TEXT].weights == sum(p.nbytes for p in t5.parameters())
    half = estimated(small_model / "t2v.yaml", bf16=True).costs
    assert all(2 * half[name].weights == cost.weights for name, cost in costs.items())


def test_phases_hold_what_is_on_the_device(small_model):
    everything, by_part, by_layer = (
        estimated(small_model / "t2v.yaml", offload=how, device="meta") for how in (None, "model", "sequential"))
    weights = sum(cost.weights for cost in everything.costs.values())
    for name in (TEXT, TRANSFORMER, DECODER):
        cost = everything.costs[name]
        assert everything.phases[name] == weights + cost.activations
        assert by_part.phases[name] == cost.weights + cost.activations
    assert by_layer.phases[TRANSFORMER] < by_part.phases[TRANSFORMER]
    assert ENCODER not in everything.phases and ENCODER in estimated(small_model / "i2v.yaml").phases
    on_cpu = estimated(small_model / "t2v.yaml", offload="model")  # only the text encoder leaves memory, when done
    assert on_cpu.phases[TEXT] == weights + on_cpu.costs[TEXT].activations
    assert on_cpu.phases[TRANSFORMER] == weights - on_cpu.costs[TEXT].weights + on_cpu.costs[TRANSFORMER].activations


def test_by_layer_the_buffers_of_each_shape_and_the_layers_ahead_count():
    model = torch.nn.Sequential(*(torch.nn.Linear(size, size, bias=False) for size in (2, 2, 3, 3, 3, 4)))
    assert layer_bytes(model) == 4 * (4 + 9 + 16 + 9 + 9) and layer_bytes(model, 1) == 16


def test_more_work_takes_more(small_model):
    path = small_model / "t2v.yaml"
    usual, wide, short = (estimated(path, rows=rows, num_frames=n) for rows, n in ((2, 17), (4, 17), (2, 9)))
    assert wide.costs[TRANSFORMER].activations > 1.85 * usual.costs[TRANSFORMER].activations
    assert wide.costs[TRANSFORMER].work.flops == pytest.approx(2 * usual.costs[TRANSFORMER].work.flops, rel=0.01)
    assert short.costs[DECODER].work.flops < usual.costs[DECODER].work.flops
    assert short.costs[DECODER].activations <= usual.costs[DECODER].activations


def test_chunks_and_tiles_of_a_long_video_are_counted_from_a_few():
    vae = build().to("meta")
    cpu = torch.device("cpu")
    for frames in (1, 7):
        latents = torch.empty(1, 4, frames, 4, 4, device="meta")
        assert decoding(vae, latents, cpu) == measure(lambda z=latents: [None for _ in vae.decode_chunks(z)], cpu)
    vae.tiling = Tiling((4, 3), 1)
    found, whole = decoding(vae, latents, cpu), measure(lambda: [None for _ in vae.decode_chunks(latents)], cpu)
    assert found[0] == pytest.approx(whole[0], rel=0.1) and found[1].flops == pytest.approx(whole[1].flops, rel=0.1)


def test_released_models_need_no_files():
    needed = estimated(REPOSITORY / "configs" / "cogvideox1.5_5b_i2v.yaml")
    assert needed.costs[TRANSFORMER].weights == 2 * 5_571_594_880
    assert needed.costs[TEXT].weights == pytest.approx(9.52e9, rel=0.01)
    assert needed.costs[ENCODER].weights + needed.costs[DECODER].weights == 2 * 215_583_907
    assert 1e9 < needed.costs[TRANSFORMER].activations < 20e9


def test_free_memory():
    assert 1e8 < free_memory(torch.device("cpu")) < 1e14


def wide(folder):
    """Write a model of about 45 MB, mostly weights of the transformer."""
    config = OmegaConf.load(write_model(folder))
    config.model.network_config.params.update({"hidden_size": 512, "num_attention_heads": 8})
    network = instantiate_from_config(config.model.network_config)
    torch.save(network.state_dict(), folder / "wide.pt")
    config.args.load = str(folder / "wide.pt")
    OmegaConf.save(config, folder / "wide.yaml")
    return folder / "wide.yaml"


@pytest.mark.parametrize("size", ["tiny", "wide"])
def test_estimate_is_within_a_fifth_of_what_a_run_takes(size, tmp_path, peak_memory):
    path = wide(tmp_path) if size == "wide" else REPOSITORY / "configs" / "tiny_t2v.yaml"
    (tmp_path / "prompts.txt").write_text("a red circle moves left\n")
    short = ("--num-frames", "9", "--num-inference-steps", "2")
    taken = peak_memory("sample", tmp_path / "out", "--base", path, "--input-file", tmp_path / "prompts.txt",
                        "--device", "cpu", *short)
    _, peak = estimated(path, *short).peak
    assert peak == pytest.approx(taken, rel=0.2)
