"""The plan of the autoencoder's training, checked against the memory that runs take."""
import os

import pytest

import train_vae
from arguments import get_args
from common.console import run
from dry_run.autoencoder_training import AUTOENCODER, DISCRIMINATOR, JUDGE, estimate_autoencoder_training
from tests.test_train_vae import clips, recipe  # noqa: F401
from tests.vae_modules.small_vae import config
from training.data.memory_clips import batches_of

pytestmark = pytest.mark.slow

LOSS = "model.first_stage_config.params.loss_config"
WIDE = {"ch": 32, "ch_mult": [1, 2, 2, 2], "norm_groups": 4}
SIZE = {"model.first_stage_config.params": config(loss=True, encoder=WIDE, decoder=WIDE),
        "data.params.video_size": [48, 48], "args.device": "cpu",
        "data.stages": [{"iters": 2, "frames": 9, "batch_size": 2}]}
ADVERSARIAL = {f"{LOSS}.target": "vae_modules.adversarial.GeneralLPIPSWithDiscriminator", f"{LOSS}.params": {
    "disc_start": 0, "perceptual_weight": 0.0, "disc_num_layers": 2}}
DECODER = {"model.not_trainable_prefixes": ["first_stage_model.encoder"]}


def estimated(argv):
    args = get_args(argv)
    train_vae.check_settings(args)
    return estimate_autoencoder_training(args, batches_of(args.data_config))


@pytest.mark.parametrize("changes", [{}, ADVERSARIAL | DECODER], ids=["pixels", "adversarial"])
def test_estimate_is_within_a_fifth_of_what_a_run_takes(changes, clips, tmp_path, peak_memory):  # noqa: F811
    argv = recipe(clips, tmp_path / "recipe", **SIZE, **changes)
    taken = peak_memory("train_autoencoder", tmp_path / "run", *argv)
    assert estimated(argv).peak[1] == pytest.approx(taken, rel=0.2)


def test_parts_are_counted(clips, tmp_path):  # noqa: F811
    plain = estimated(recipe(clips, tmp_path / "a", **SIZE))
    assert plain.parts[AUTOENCODER] == 4 * plain.elements and sum(plain.parts.values()) == 20 * plain.elements
    judged = recipe(clips, tmp_path / "b", **SIZE, **ADVERSARIAL, **DECODER)
    found = estimated([*judged, "--plan", f"{LOSS}.params.vgg_weights=no.pth", f"{LOSS}.params.lpips_weights=no.pth",
                       f"{LOSS}.params.perceptual_weight=1.0"])
    convolutions, channels, colours = 14_714_688, 64 + 128 + 256 + 512 + 512, 6
    assert found.parts[JUDGE] == 4 * (convolutions + channels + colours)
    assert found.parts[DISCRIMINATOR] % 12 == 0 and found.elements < plain.elements


def test_the_plan_loads_and_writes_nothing(tmp_path, caplog):
    caplog.set_level("INFO")
    argv = recipe(tmp_path / "missing", tmp_path, **SIZE, **ADVERSARIAL)
    assert run(train_vae.main, [*argv, "--plan", f"args.save={tmp_path / 'run'}", "args.load=missing.pt"]) == 0
    for told in ("memory by part: autoencoder", "discriminator with its optimizer", "discriminator's step", "at most",
                 "batches of 2 x 9 frames of 48 x 48"):
        assert told in caplog.text
    assert os.listdir(tmp_path) == ["recipe.yaml"]
