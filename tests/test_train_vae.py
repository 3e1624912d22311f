import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import train_vae
from common.errors import ConfigError, NumericalError
from tests.vae_modules.small_vae import build, config, latent, video
from tools import make_shapes
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


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_that_was_stopped_ends_like_one_that_was_not(clips, tmp_path, monkeypatch):
    train_vae.main(recipe(clips, tmp_path / "whole"))
    train_step, steps = train_vae.train_step, []

    def stopping(*args):
        if len(steps) == 3:
            raise KeyboardInterrupt
        steps.append(1)
        return train_step(*args)

    monkeypatch.setattr(train_vae, "train_step", stopping)
    command = recipe(clips, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        train_vae.main(command)
    monkeypatch.setattr(train_vae, "train_step", train_step)
    train_vae.main([*command, "--resume"])

    whole, stopped = (read_checkpoint(tmp_path / run / "state.pt") for run in ("whole", "stopped"))
    assert whole["step"] == stopped["step"] == 4
    for part in ("model", "average"):
        for name, value in whole[part].items():
            assert torch.equal(value, stopped[part][name]), name
    assert log_of(tmp_path / "whole")[-1] == log_of(tmp_path / "stopped")[-1]
    assert [record["frames"] for record in log_of(tmp_path / "whole")] == [1, 1, 9, 9]
    assert log_of(tmp_path / "whole")[-1]["psnr"] > 0

    weights = tmp_path / "whole" / "3d-vae.pt"
    assert {v.dtype for v in read_checkpoint(weights)["state_dict"].values()} == {torch.float16}
    assert torch.isfinite(build(ckpt_path=str(weights)).encode(video())).all()


def test_the_decoder_goes_on_alone_from_other_weights(clips, tmp_path):
    train_vae.main(recipe(clips, tmp_path / "both"))
    start = tmp_path / "both" / "3d-vae.pt"
    train_vae.main([*recipe(clips, tmp_path / "decoder"), f"args.load={start}",
                    "model.not_trainable_prefixes=[first_stage_model.encoder]"])
    before, after = (read_checkpoint(path)["state_dict"] for path in (start, tmp_path / "decoder" / "3d-vae.pt"))
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"decoder"}


def test_a_smaller_decoder_learns_the_latents_of_a_trained_encoder(clips, tmp_path):
    train_vae.main(recipe(clips, tmp_path / "both"))
    start, small = tmp_path / "both" / "3d-vae.pt", tmp_path / "small" / "3d-vae.pt"
    size = "model.first_stage_config.params.decoder_config.params.num_res_blocks=0"
    train_vae.main([*recipe(clips, tmp_path / "small"), f"args.load={start}", size,
                    "model.fresh_prefixes=[first_stage_model.decoder]",
                    "model.not_trainable_prefixes=[first_stage_model.encoder]"])
    before, after = (read_checkpoint(path)["state_dict"] for path in (start, small))
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name.startswith("encoder."))
    assert len(after) < len(before)
    assert torch.isfinite(build(decoder={"num_res_blocks": 0}, ckpt_path=str(small)).decode(latent(3))).all()


def test_noise_on_latents_has_a_size_of_its_own_for_each_clip():
    seen = []
    for tau in (0.0, 0.5):
        model = build(loss=True)
        decode = model.decode
        model.decode = lambda z, decode=decode: (seen.append(z), decode(z))[1]
        progress = train_vae.Progress(model, build(loss=True), torch.optim.SGD(model.parameters()),
                                      torch.Generator().manual_seed(0))
        train_vae.train_step(progress, video(1, batch=64), 0.0, tau)
    sizes = (seen[1] - seen[0]).detach().square().mean((1, 2, 3, 4)).sqrt()
    assert sizes.mean().item() == pytest.approx(0.5 * (2 / torch.pi) ** 0.5, rel=0.2)  # mean of |N(0, 0.5^2)|
    assert sizes.min() < 0.1 and sizes.max() > 0.8


def test_a_loss_that_is_not_finite_names_the_iteration(clips, tmp_path):
    loss = "model.first_stage_config.params.loss_config.params.l1_weight"
    with pytest.raises(NumericalError, match="iteration 0; lower deepspeed.optimizer.params.lr"):
        train_vae.main(recipe(clips, tmp_path, **{loss: float("nan")}))


def test_training_without_stages_is_refused(clips, tmp_path):
    with pytest.raises(ConfigError, match="data.stages"):
        train_vae.main(recipe(clips, tmp_path, **{"data.stages": []}))


def test_the_preset_halves_what_released_models_halve():
    """The preset turns 17 frames of 64 x 64 into 5 latent frames of 8 x 8."""
    from configuration.targets import instantiate_from_config
    with torch.device("meta"):
        vae = instantiate_from_config(OmegaConf.load(PRESET).model.first_stage_config)
        z = vae.encode(torch.empty(1, 3, 17, 64, 64), sample_posterior=False)
        assert z.shape == (1, 16, 5, 8, 8) and vae.decode(z).shape == (1, 3, 17, 64, 64)


def test_learning_rate_warms_up_and_falls():
    rates = [train_vae.learning_rate(step, 1000, 1.0) for step in (0, 49, 50, 525, 1000)]
    assert rates == pytest.approx([0.02, 1.0, 1.0, 0.505, 0.01])
