"""The adversarial training of the autoencoder: what is kept where, and resumption."""
import json

import pytest
import torch

import train_vae
from common.errors import CheckpointError, ConfigError, NumericalError
from tests.test_train_vae import clips, recipe, state_of  # noqa: F401
from tests.test_train_video import same
from training.adversary import Adversary
from training.autoencoder import AutoencoderTrainer
from training.soundness import fault_of
from weights.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

LOSS = "model.first_stage_config.params.loss_config"
ADVERSARIAL = {f"{LOSS}.target": "vae_modules.adversarial.GeneralLPIPSWithDiscriminator", f"{LOSS}.params": {
    "disc_start": 1, "perceptual_weight": 0.0,
    "discriminator_config": {"target": "vae_modules.discriminator.NLayerDiscriminator3D",
                             "params": {"ndf": 8, "n_layers": 1}}}}


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):  # noqa: F811
    """The folder of a run of four steps, one frame each in two and nine in two."""
    folder = tmp_path_factory.mktemp("whole")
    train_vae.main(recipe(clips, folder, **ADVERSARIAL))
    return folder


def test_the_discriminator_acts_from_its_first_step_and_is_logged(whole):
    log = [record for record in map(json.loads, (whole / "log.jsonl").read_text().splitlines()) if "loss" in record]
    assert ["disc_loss" in record for record in log] == [False, True, True, True]
    assert {"adversarial", "adaptive_weight", "disc_loss", "logits_real", "logits_made",
            "disc_grad_norm"} <= set(log[3])
    assert [record["frames"] for record in log] == [1, 1, 9, 9]


def test_it_is_in_the_state_alone(whole):
    state = state_of(whole, 4)
    assert set(state["discriminator"]) == {"weights", "optimizer"}
    exported = read_checkpoint(whole / "3d-vae.pt")["state_dict"]
    for names in (exported, state["network"], state["average"]):
        assert {name.split(".")[0] for name in names} == {"encoder", "decoder"}
    assert len(state["optimizer"]["state"]) == len(state["average"])  # one entry for each weight of the autoencoder
    assert len(state["discriminator"]["optimizer"]["state"]) == len(state["discriminator"]["weights"])


def test_stopped_and_resumed_it_ends_the_same(whole, clips, tmp_path, monkeypatch):  # noqa: F811
    train_step = AutoencoderTrainer.train_step

    def stopping(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return train_step(self)

    monkeypatch.setattr(AutoencoderTrainer, "train_step", stopping)
    command = recipe(clips, tmp_path, **ADVERSARIAL)
    with pytest.raises(KeyboardInterrupt):
        train_vae.main(command)
    monkeypatch.undo()
    train_vae.main([*command, "--resume"])
    assert same(state_of(whole, 4), state_of(tmp_path, 4))


def test_what_is_not_finite_is_neither_trained_on_nor_saved(clips, tmp_path, whole, monkeypatch):  # noqa: F811
    state = train_vae.run_files.state_of(state_of(whole, 4), whole)
    next(iter(state.discriminator["weights"].values())).fill_(float("nan"))
    assert fault_of(state).startswith("the discriminator's weights.main.0.weight is nan")
    broken = lambda self: torch.nn.init.constant_(self.discriminator.main[0].weight, float("nan"))  # noqa: E731
    judged = Adversary.judged
    monkeypatch.setattr(Adversary, "judged", lambda self, loss, *rest: (broken(self), judged(self, loss, *rest))[1]
                        if rest[2] else (loss, {}))
    with pytest.raises(NumericalError, match="the discriminator's loss is nan at step 1; lower .*disc_learning_rate"):
        train_vae.main(recipe(clips, tmp_path, **ADVERSARIAL))


def test_a_state_without_its_discriminator_is_refused(whole, clips, tmp_path):  # noqa: F811
    command = recipe(clips, tmp_path, **ADVERSARIAL)
    (tmp_path / "training").mkdir()
    torch.save(state_of(whole, 4) | {"step": 2, "discriminator": None}, tmp_path / "training/2_rank_00.pt")
    (tmp_path / "latest").write_text("2")
    with pytest.raises(CheckpointError, match="not one of this run's discriminator; missing: main.0"):
        train_vae.main([*command, "--resume"])


@pytest.mark.parametrize("words, told", [
    (("model.not_trainable_prefixes=[first_stage_model.decoder.conv_out]",), "the decoder's last layer"),
    ((f"{LOSS}.params.discriminator_config.params.n_layers=3",), "a side of 16 pixels, and 24 is the least"),
    ((f"{LOSS}.params.perceptual_weight=1", f"{LOSS}.params.vgg_weights=no.pth", f"{LOSS}.params.lpips_weights=no.pth"),
     "no.pth is no file; it should be VGG16"),
    ((f"{LOSS}.params.discriminator_config.params.input_nc=1",), "input_nc is 1; it must be 3"),
    ((f"{LOSS}.params.disc_in_channels=4",), "disc_in_channels is 4; it must be 3"),
    ((f"{LOSS}.params.l1_weight=0",), "l2_weight and edge_weight are 0 and there is no LPIPS")])
def test_mistakes_are_found_before_clips_are_read(words, told, clips, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.delattr(train_vae, "read_buckets")
    with pytest.raises((ConfigError, CheckpointError), match=told):
        train_vae.main([*recipe(clips, tmp_path, **ADVERSARIAL), *words])


def test_what_plays_no_part_is_said(clips, tmp_path, caplog):  # noqa: F811
    train_vae.main([*recipe(clips, tmp_path, **ADVERSARIAL), f"{LOSS}.params.disc_start=4",
                    f"{LOSS}.params.perceptual_weight=1", f"{LOSS}.params.disc_num_layers=2",
                    f"{LOSS}.params.disc_weight=0"])
    assert "disc_weight is 0; disc_factor: 0 leaves it out" in caplog.text
    assert "disc_num_layers plays no part" in caplog.text
    assert "disc_start is 4 and the run has 4 steps" in caplog.text and "LPIPS plays no part" in caplog.text
