"""Tests of studies of variants: timesteps divided among ranks, exchanged layers, and training runs."""
import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from benchmarks.studies.ablations import visible
from benchmarks.studies.rank_losses import SharedOut
from common.errors import ConfigError
from configuration.targets import allow_targets
from media.videos import write_video
from sgm.sigma_sampling import DiscreteSampling
from tests.dit_models import build, inputs

TABLE = {"target": "sgm.discretizer.ZeroSNRDDPMDiscretization"}
ABLATIONS = "benchmarks.studies.ablations"


@pytest.fixture(scope="module")
def table():
    return DiscreteSampling(TABLE, 1000, uniform_sampling=True)


def draw(table, ranks, explicit, count, seed=0):
    shared = SharedOut(table, ranks, explicit, torch.Generator().manual_seed(seed))
    return [shared(16, return_idx=True) for _ in range(count)]


def test_each_rank_draws_from_its_own_interval_and_levels_are_the_table_s(table):
    for level, timesteps in draw(table, 4, True, 20):
        assert (timesteps.view(4, 4) // 250 == torch.arange(4)[:, None]).all()
        assert torch.equal(level, table.sigmas[timesteps])


def test_batches_agree_more_where_timesteps_are_shared_out(table):
    deviations = [np.std([float(timesteps.double().mean()) for _, timesteps in draw(table, ranks, explicit, 400)])
                  for ranks, explicit in ((16, False), (4, True), (16, True))]
    exact = [1000 / ranks / np.sqrt(12 * 16) for ranks in (1, 4, 16)]  # deviation of the mean of 16 uniform draws
    assert deviations == pytest.approx(exact, rel=0.12)


def normed_by(name):
    allow_targets(ABLATIONS)
    return build(extra_modules={"adaln_layer_config": {"target": f"{ABLATIONS}.{name}"}})


def test_shared_modulation_is_that_of_experts_which_agree():
    shared, experts = normed_by("SharedAdaLNMixin"), build()
    weights = {name: value.repeat(2, *[1] * (value.ndim - 1)) if "adaLN_modulations" in name else value
               for name, value in shared.state_dict().items()}
    experts.load_state_dict(weights)
    x, timesteps, text = inputs()
    assert torch.equal(shared(x, timesteps, text), experts(x, timesteps, text))


def test_plain_layernorm_knows_the_time_in_the_final_layer_alone():
    model = normed_by("PlainLayerNormMixin")
    assert not any("adaLN_modulations" in name for name, _ in model.named_parameters())
    x, timesteps, text = inputs()
    assert not torch.equal(model(x, timesteps, text), model(x, timesteps + 100, text))
    last = model.mixins["final_layer"].adaLN_modulation[1]
    torch.nn.init.zeros_(last.weight)
    assert torch.equal(model(x, timesteps, text), model(x, timesteps + 100, text))


def test_divided_attention_sees_frame_or_place_and_text():
    seen = visible(2, (3, 2, 2), True), visible(2, (3, 2, 2), False)
    for one in seen:
        assert one[:, :2].all() and not one[:2, 2:].any()
    space, time = (one[2:, 2:] for one in seen)
    assert space[0].tolist() == [True] * 4 + [False] * 8
    assert time[0].tolist() == [True, False, False, False] * 3


def test_divided_attention_keeps_frames_apart_in_one_layer_and_joins_them_in_two():
    x, timesteps, text = inputs()
    changed = x.clone()
    changed[:, 2] += 1
    for layers, apart in ((1, True), (2, False)):
        allow_targets(ABLATIONS)
        divided = build(extra_modules={"adaln_layer_config": {"target": f"{ABLATIONS}.DividedAttentionMixin"}},
                        num_layers=layers)
        first, second = (divided(latents, timesteps, text)[:, :2] for latents in (x, changed))
        assert torch.allclose(first, second, atol=1e-6) == apart


def test_divided_attention_in_one_frame_is_attention_and_needs_whole_sequences():
    allow_targets(ABLATIONS)
    part = {"adaln_layer_config": {"target": f"{ABLATIONS}.DividedAttentionMixin"}}
    divided, whole = build(extra_modules=part, num_layers=1), build(num_layers=1)
    x, timesteps, text = inputs(latent=(1, 4, 6, 8))
    assert torch.allclose(divided(x, timesteps, text), whole(x, timesteps, text), atol=1e-6)
    context = SimpleNamespace(attend=print)
    with pytest.raises(ConfigError, match="sequence_parallel_size to 1"):
        divided.mixins["adaln_layer"].attention_forward(None, None, None, context)


def write_clips(folder, count, seed):
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 255, (17, 4, 4, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
        write_video(folder / "videos" / f"{i}.mp4", [pixels], 8)
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{i}.txt").write_text("a red circle moves left")


@pytest.fixture(scope="module")
def recipe(small_model, tmp_path_factory):
    """Configurations that train the tests' small model on two clips."""
    root = tmp_path_factory.mktemp("clips")
    for name in ("train", "valid"):
        write_clips(root / name, 2, 0)
    path = root / "train.yaml"
    OmegaConf.save({
        "args": {"load": None, "train_data": [str(root / "train")], "valid_data": [str(root / "valid")],
                 "latent_cache": str(root / "latents"), "eval_interval": 1, "eval_iters": 1, "log_interval": 1,
                 "ema_decay": 0.9, "device": "cpu"},
        "data": {"target": "data_video.SFTDataset",
                 "params": {"video_size": [32, 32], "fps": 8, "max_num_frames": 17}},
        "deepspeed": {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0,
                      "zero_optimization": {"stage": 1}, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}},
    }, path)
    return [str(small_model / "t2v.yaml"), str(path)]


def test_trainings_side_by_side(recipe, study, tmp_path):
    part = "model.network_config.params.modules.adaln_layer_config"
    training = {"question": "Which?", "grids": [{"steps": [2]}],
                "problem": {"kind": "training", "base": recipe, "folder": str(tmp_path / "runs")},
                "variants": {"experts": {},
                             "shared": {"overrides": [f"{part}={{target: {ABLATIONS}.SharedAdaLNMixin}}"]}},
                "plots": [{"name": "losses", "kind": "losses"}]}
    assert study(training) == 0
    with open(tmp_path / "out/results.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["variant"] for row in found] == ["experts", "shared"]
    (path,) = (tmp_path / "runs").glob("experts, 2 steps, seed 0 */log.jsonl")
    log = [json.loads(line) for line in path.read_text().splitlines()]
    assert float(found[0]["valid_loss"]) == pytest.approx(log[-1]["valid_loss"], rel=1e-4)
    assert (tmp_path / "out/small_losses.png").is_file()


def test_autoencoders_side_by_side(recipe, study, tmp_path):
    data = OmegaConf.load(recipe[1])
    sides = [f"model.first_stage_config.params.{side}_config.params" for side in ("encoder", "decoder")]
    small = [f"{side}.{word}" for side in sides for word in ("ch=4", "norm_groups=4", "ch_mult=[1, 1, 1, 1]")]
    folders = [f"args.{key}=[{data.args[key][0]}]" for key in ("train_data", "valid_data")]
    channels = [f"{side}.z_channels=4" for side in sides]
    training = {"question": "Which?", "grids": [{"steps": [2]}],
                "problem": {"kind": "autoencoder_training", "folder": str(tmp_path / "runs"), "batch_size": 1,
                            "frames": 9, "overrides": [*small, *folders, "data.params.video_size=[32, 32]",
                                                       "args.log_interval=1", "args.device=cpu"]},
                "variants": {"four": {"overrides": channels}, "sixteen": {}}}
    assert study(training) == 0
    with open(tmp_path / "out/results.csv", newline="") as file:
        four, sixteen = csv.DictReader(file)
    assert float(sixteen["numbers"]) == pytest.approx(16 * 5 / 17 / 64, rel=1e-4)
    assert float(four["numbers"]) == pytest.approx(4 * 5 / 17 / 64, rel=1e-4)
    (path,) = (tmp_path / "runs").glob("four, 2 steps, seed 0 */log.jsonl")
    log = [json.loads(line) for line in path.read_text().splitlines()]
    assert float(four["psnr"]) == pytest.approx(log[-1]["psnr"], abs=0.1)
    assert float(four["psnr_low"]) <= float(four["psnr"]) <= float(four["psnr_high"])


def test_losses_across_ranks_of_a_model_that_is_not_trained(recipe, study, tmp_path):
    ranks = {"question": "How much?", "grids": [{"steps": [3]}],
             "problem": {"kind": "loss_across_ranks", "base": recipe, "rows": 2, "overrides": [],
                         "folder": str(tmp_path / "ranks")},
             "variants": {"explicit": {"ranks": 2, "explicit": True}}}
    assert study(ranks) == 0
    with open(tmp_path / "out/results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["loss"]) > 0 and float(row["relative"]) == pytest.approx(
        float(row["deviation"]) / float(row["loss"]), rel=1e-4)


RANKS = {"question": "How much?", "grids": [{"steps": [3]}], "problem": {"kind": "loss_across_ranks", "rows": 16},
         "variants": {"explicit": {"ranks": 4, "explicit": True}}}


@pytest.mark.parametrize("change, says", [
    ({"variants": {"explicit": {"ranks": 5, "explicit": True}}}, "variants.explicit needs explicit (true or false)"),
    ({"variants": {"explicit": {"rank": 4}}}, "unknown key rank"),
    ({"grids": [{"steps": [3], "variants": ["implicit"]}]}, "the study has no implicit"),
    ({"problem": {"kind": "gaussian"}}, "problem.kind gaussian needs samplers and schedules"),
    ({"plots": [{"name": "a", "kind": "losses", "variants": ["none"]}]}, "plots[0].variants: the study has no none"),
    ({"problem": {"kind": "training"}, "variants": {"one": {"overrides": "a=1"}}}, "must be a list of key=value"),
])
def test_mistakes_are_one_line(study, capsys, change, says):
    assert study({**RANKS, **change}) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and err.startswith("error: ")
