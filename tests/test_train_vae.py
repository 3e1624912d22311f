import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import train_vae
from common.errors import CheckpointError, ConfigError, DataError, NumericalError
from common.files import sole_use
from tests.test_train_video import same
from tests.vae_modules.small_vae import build, config, latent, video
from tools import make_shapes
from training.autoencoder import AutoencoderTrainer
from weights.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

PRESET = Path(train_vae.__file__).parent / "configs" / "tiny_vae.yaml"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    assert make_shapes.main(["--out", str(folder), "--clips", "4", "--processes", "1"]) == 0
    return folder


def recipe(clips: Path, save: Path, **changes) -> list[str]:
    """Return the command line of a run of four iterations."""
    save.mkdir(parents=True, exist_ok=True)
    content = OmegaConf.create({
        "args": {"train_data": [str(clips)], "valid_data": [str(clips)], "save": str(save), "save_interval": 2,
                 "eval_interval": 4, "log_interval": 1},
        "model": {"first_stage_config": {"target": "vae_modules.autoencoder.VideoAutoencodingEngine",
                                         "params": config(loss=True)}},
        "data": {"target": "data_video.SFTDataset",
                 "params": {"video_size": [16, 16], "fps": 8, "max_num_frames": 9},
                 "stages": [{"iters": 2, "frames": 1, "batch_size": 2}, {"iters": 2, "frames": 9, "batch_size": 1}]},
        "deepspeed": {"optimizer": {"params": {"lr": 1e-3}}}})
    for key, value in changes.items():
        OmegaConf.update(content, key, value)
    OmegaConf.save(content, save / "recipe.yaml")
    return ["--base", str(save / "recipe.yaml")]


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """The folder of a run that has ended; a test that writes there takes a `copy`."""
    folder = tmp_path_factory.mktemp("whole")
    train_vae.main(recipe(clips, folder))
    return folder


def copy(clips: Path, run: Path, folder: Path) -> list[str]:
    """Copy a run, and return the command line that goes on with the copy."""
    shutil.copytree(run, folder, dirs_exist_ok=True)
    return recipe(clips, folder)


SIZES = "model.first_stage_config.params.encoder_config.params"
LONGER = "data.stages=[{iters: 2, frames: 1, batch_size: 2}, {iters: 4, frames: 9, batch_size: 1}]"


def log_of(folder: Path) -> list[dict]:
    """Return what a run logged, but for the seconds that steps took."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds_per_step"} for record in records]


def state_of(folder: Path, step: int) -> dict:
    return read_checkpoint(folder / "training" / f"{step}_rank_00.pt")


def test_a_run_that_was_stopped_ends_like_one_that_was_not(clips, whole, tmp_path, monkeypatch):
    train_step = AutoencoderTrainer.train_step

    def stopping(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return train_step(self)

    monkeypatch.setattr(AutoencoderTrainer, "train_step", stopping)
    command = recipe(clips, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        train_vae.main(command)
    monkeypatch.undo()
    assert (tmp_path / "stopped" / "latest").read_text() == "2"
    train_vae.main([*command, "--resume"])

    assert same(state_of(whole, 4), state_of(tmp_path / "stopped", 4))
    log = log_of(whole)
    assert log[-2:] == log_of(tmp_path / "stopped")[-2:]
    assert [record["frames"] for record in log if "loss" in record] == [1, 1, 9, 9]
    assert log[-1]["step"] == 4 and log[-1]["psnr"] > 0
    assert sorted(path.name for path in (whole / "training").iterdir()) == ["4_rank_00.pt"]

    weights = whole / "3d-vae.pt"
    assert {v.dtype for v in read_checkpoint(weights)["state_dict"].values()} == {torch.float16}
    assert torch.isfinite(build(ckpt_path=str(weights)).encode(video())).all()


def test_a_signal_to_stop_saves_the_step_under_way_and_the_run_goes_on_from_it(clips, whole, tmp_path, monkeypatch):
    update_weights = AutoencoderTrainer.update_weights

    def signalled(self):
        update_weights(self)
        if self.step == 2:  # the third
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(AutoencoderTrainer, "update_weights", signalled)
    command = recipe(clips, tmp_path / "stopped")
    with pytest.raises(SystemExit) as ended:
        train_vae.main(command)
    monkeypatch.undo()
    assert ended.value.code == 143 and (tmp_path / "stopped" / "latest").read_text() == "3"
    train_vae.main([*command, "--resume"])
    assert same(state_of(whole, 4), state_of(tmp_path / "stopped", 4))


def test_a_folder_that_another_run_uses_is_left_alone(clips, tmp_path):
    command = recipe(clips, tmp_path)
    (tmp_path / ".latest.1.partial").write_text("of the other run")
    with sole_use(tmp_path), pytest.raises(DataError, match="in use by another run; wait for it to end"):
        train_vae.main([*command, "--resume"])
    assert (tmp_path / ".latest.1.partial").exists() and not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("key, said", [
    ("deepspeed.fp16.enabled=true", "deepspeed.fp16: the autoencoder's training reads deepspeed.optimizer and .*bf16"),
    ("deepspeed.bf16.loss_scale=2", "deepspeed.bf16.loss_scale: .*has deepspeed.bf16.enabled alone"),
    ("deepspeed.scheduler={type: WarmupLR}", "deepspeed.scheduler: the autoencoder's training reads")])
def test_sections_that_change_nothing_are_refused(key, said, clips, tmp_path):
    with pytest.raises(ConfigError, match=said):
        train_vae.main([*recipe(clips, tmp_path), key])


@pytest.mark.parametrize("words, said", [
    ([LONGER.replace("frames: 9", "frames: 5")], r"stages\[1\].frames is 5; this autoencoder takes 8k \+ 1"),
    ([LONGER, f"{SIZES}.temporal_compress_times=8"], r"stages\[1\].frames is 9; this autoencoder takes 16k \+ 1"),
    ([LONGER, f"{SIZES}.ch_mult=[1, 1, 1, 1, 1, 1]"], r"video_size is \[16, 16\]; .* multiples of 32")])
def test_clips_that_the_autoencoder_cannot_take_are_refused_before_they_are_read(words, said, clips, tmp_path):
    both = [word.replace("encoder_config", f"{kind}_config") for word in words for kind in ("encoder", "decoder")]
    with pytest.raises(ConfigError, match=said):
        train_vae.main([*recipe(clips, tmp_path), *dict.fromkeys(both), "args.train_data=[/nowhere]"])


def test_bfloat16_computes_in_it_and_keeps_weights_in_float32(clips, whole, tmp_path):
    train_vae.main([*recipe(clips, tmp_path), "deepspeed.bf16.enabled=true"])
    losses = [[record["loss"] for record in log_of(folder) if "loss" in record] for folder in (whole, tmp_path)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {value.dtype for value in state_of(tmp_path, 4)["network"].values()} == {torch.float32}


def test_the_decoder_goes_on_alone_from_other_weights(clips, whole, tmp_path):
    start = whole / "3d-vae.pt"
    train_vae.main([*recipe(clips, tmp_path / "decoder"), f"args.load={start}",
                    "model.not_trainable_prefixes=[first_stage_model.encoder]"])
    before, after = (read_checkpoint(path)["state_dict"] for path in (start, tmp_path / "decoder" / "3d-vae.pt"))
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"decoder"}


def test_a_smaller_decoder_learns_the_latents_of_a_trained_encoder(clips, whole, tmp_path):
    start, small = whole / "3d-vae.pt", tmp_path / "small" / "3d-vae.pt"
    size = "model.first_stage_config.params.decoder_config.params.num_res_blocks=0"
    train_vae.main([*recipe(clips, tmp_path / "small"), f"args.load={start}", size,
                    "model.fresh_prefixes=[first_stage_model.decoder]",
                    "model.not_trainable_prefixes=[first_stage_model.encoder]"])
    before, after = (read_checkpoint(path)["state_dict"] for path in (start, small))
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name.startswith("encoder."))
    assert len(after) < len(before)
    assert torch.isfinite(build(decoder={"num_res_blocks": 0}, ckpt_path=str(small)).decode(latent(3))).all()


def test_a_loss_that_is_not_finite_names_the_step(clips, tmp_path):
    with pytest.raises(NumericalError, match=r"the loss is (nan|inf) at step \d; lower deepspeed.optimizer.params.lr$"):
        train_vae.main([*recipe(clips, tmp_path), "deepspeed.optimizer.params.lr=1e30"])


def test_a_misspelt_key_of_the_model_is_named(clips, tmp_path):
    with pytest.raises(ConfigError, match=r"model.fresh_prefixs: unknown key; did you mean fresh_prefixes\?"):
        train_vae.main(recipe(clips, tmp_path, **{"model.fresh_prefixs": ["decoder"]}))


@pytest.mark.parametrize("key, prefix", [("not_trainable_prefixes", "encoder"), ("not_trainable_prefixes",
                                                                                 "first_stage_model.encodr"),
                                         ("fresh_prefixes", "decoder")])
def test_a_prefix_that_begins_no_name_is_refused(clips, tmp_path, key, prefix):
    with pytest.raises(ConfigError, match=f"model.{key}: no parameter's name begins with '{prefix}'"):
        train_vae.main([*recipe(clips, tmp_path), f"model.{key}=[{prefix}]"])


def test_a_foreign_state_is_named_and_stays(clips, tmp_path):
    torch.save({"mine": torch.ones(2)}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="state.pt is no state of the autoencoder's training, it lacks average"):
        train_vae.main([*recipe(clips, tmp_path), "--resume"])
    assert torch.load(tmp_path / "state.pt")["mine"].sum() == 2


def test_training_without_stages_is_refused(clips, tmp_path):
    with pytest.raises(ConfigError, match="data.stages"):
        train_vae.main(recipe(clips, tmp_path, **{"data.stages": []}))


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings_or_clips(clips, whole, tmp_path):
    command = copy(clips, whole, tmp_path)
    weights = (tmp_path / "3d-vae.pt").read_bytes()
    with pytest.raises(ConfigError, match="holds the checkpoints of a run already; resume it with --resume"):
        train_vae.main(command)
    with pytest.raises(ConfigError, match="optimizer.params.lr from 0.001 to 0.5"):
        train_vae.main([*command, "--resume", "deepspeed.optimizer.params.lr=0.5"])
    with pytest.raises(ConfigError, match="args.train_data had 4 clips when the run was stopped and has 8 now"):
        train_vae.main([*command, "--resume", f"args.train_data=[{clips},{clips}]", LONGER])
    (tmp_path / "latest").unlink()  # as earlier versions left a run's folder
    with pytest.raises(ConfigError, match="holds the checkpoints of a run already"):
        train_vae.main(command)
    assert (tmp_path / "3d-vae.pt").read_bytes() == weights


def test_a_run_that_has_ended_goes_on_with_more_steps(clips, whole, tmp_path, caplog):
    command = copy(clips, whole, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    caplog.set_level("INFO")
    train_vae.main([*command, "--resume"])
    assert "the run has ended with step 4, nothing is left to do; to go on, ask for more steps with data.stages" in (
        caplog.text)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="has taken 4 steps already, and data.stages asks for 2"):
        train_vae.main([*command, "--resume", "data.stages=[{iters: 2, frames: 1, batch_size: 2}]"])
    with pytest.raises(ConfigError, match="changed configuration: data.stages from"):  # other batches than were taken
        train_vae.main([*command, "--resume", LONGER.replace("2, frames: 1", "3, frames: 1")])
    train_vae.main([*command, "--resume", LONGER])
    assert [record["step"] for record in log_of(tmp_path) if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert "takes 6 steps in place of 4, and its learning rate follows the schedule of 6" in caplog.text


def test_a_state_of_an_earlier_version_is_resumed(clips, whole, tmp_path):
    train_vae.main([*recipe(clips, tmp_path / "start"), "data.stages=[{iters: 2, frames: 1, batch_size: 2}]"])
    saved, earlier = state_of(tmp_path / "start", 2), tmp_path / "earlier"
    command = recipe(clips, earlier)
    torch.save({"model": saved["network"], "average": saved["network"] | saved["average"], "step": 2,
                "optimizer": saved["optimizer"], "generator": saved["generator"]}, earlier / "state.pt")
    train_vae.main([*command, "--resume"])
    found, expected = (state_of(folder, 4) for folder in (earlier, whole))
    assert [record["step"] for record in log_of(earlier) if "loss" in record] == [3, 4]
    assert not (earlier / "state.pt").exists()
    assert same(found["network"], expected["network"]) and same(found["average"], expected["average"])


def test_held_out_clips_are_seen_at_the_end_without_an_interval(clips, tmp_path):
    train_vae.main([*recipe(clips, tmp_path), "args.eval_interval=null"])
    assert [record["step"] for record in log_of(tmp_path) if "psnr" in record] == [4]


def test_the_preset_halves_what_released_models_halve():
    """The preset turns 17 frames of 64 x 64 into 5 latent frames of 8 x 8."""
    from configuration.targets import instantiate_from_config
    with torch.device("meta"):
        vae = instantiate_from_config(OmegaConf.load(PRESET).model.first_stage_config)
        z = vae.encode(torch.empty(1, 3, 17, 64, 64), sample_posterior=False)
        assert z.shape == (1, 16, 5, 8, 8) and vae.decode(z).shape == (1, 3, 17, 64, 64)
