"""Train the video autoencoder: `python train_vae.py --base configs/tiny_vae.yaml`.

Configuration: `model.first_stage_config` (the autoencoder with its loss), `data` (a data set of clips, and `stages`,
each with its iterations, frames per clip and batch size), `deepspeed.optimizer`, `args` (folders, intervals, seed).
With `--plan`, logs the memory that the run would need, then stops.
Writes below `args.save`: `3d-vae.pt` with averaged weights in the layout of released autoencoders, `training/` for
`--resume`, `log.jsonl` and `tensorboard/`.

With `deepspeed.bf16.enabled` products and convolutions are computed in bfloat16; weights and their gradients stay in
float32.

`args.load` starts from the weights of another run, except for parts that `model.fresh_prefixes` names, which may have
other shapes. With `model.not_trainable_prefixes: [first_stage_model.encoder]` the latents do not change, so models
trained on them stay valid; `model.latent_noise` makes the decoder robust (see configs/small_model/vae.yaml and
configs/tiny_vae_preview.yaml).
"""
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "sat"))

from arguments import get_args
from common.compression import Compression
from common.console import faults_beside, run
from common.errors import ConfigError
from common.files import check_writable, sole_use
from common.ranks import report_once, world_size
from configuration.settings import Arguments
from configuration.targets import check_data_section
from configuration.unread import warn_precision, warn_typed
from data_video import clip_forms_of
from dry_run.autoencoder_training import show_autoencoder_plan
from parallel import launch
from training import run_files, run_state
from training.adversary import check_adversary
from training.autoencoder import AutoencoderTrainer, convert_earlier_state, warn_short
from training.autoencoder_model import build_model, check_model, check_stages
from training.continuation import has_ended
from training.data.folders import check_apart, report_shared
from training.data.memory_clips import MemoryClips, batches_of, read_buckets, read_stages
from training.data.sources import check_clip_data, check_decodable
from training.deepspeed_section import check_optimizer_alone
from training.metrics import check_wandb
from training.run_state import RunState

logger = logging.getLogger("train_vae")


def main(argv: Sequence[str] | None = None) -> None:
    with report_once():
        args = get_args(argv, __doc__.splitlines()[0])
        check_settings(args)
        if args.run.plan:
            show_autoencoder_plan(args, batches_of(args.data_config))
            return
    with faults_beside(args.training.folder), sole_use(args.training.folder):
        train(args)


def check_settings(args: Arguments) -> None:
    """Check all settings before anything is read or built; raises ConfigError for the first mistake."""
    if world_size() > 1:
        raise ConfigError("train_vae.py trains on one process; start it without torchrun")
    launch.check_launcher()
    args.config.model = check_model(args.model_config, args.run.device)
    args.config.data = check_data_section(args.data_config)
    check_clip_data(args.data_config, args.training.split)
    settings, stages = args.training, read_stages(args.data_config)
    if not (stages and settings.save and settings.train_data and args.deepspeed_config):
        raise ConfigError("training needs data.stages, args.train_data, args.save and section deepspeed; "
                          "see configs/tiny_vae.yaml")
    check_stages(args.model_config, stages, batches_of(args.data_config)[0][3:])
    if settings.valid_data:
        for form in clip_forms_of(args.data_config.params):
            check_decodable(form, Compression.of_first_stage(args.model_config.first_stage_config), "args.valid_data")
    check_optimizer_alone(args.deepspeed_config)
    warn_typed(args, "train_vae.py")
    warn_precision(args)
    args.run.bf16 = bool((args.deepspeed_config.get("bf16") or {}).get("enabled"))
    check_adversary(args, stages, files=not args.run.plan)
    warn_short(stages)
    if args.training.wandb:
        check_wandb()
    check_apart(args.training)
    if not args.run.plan:
        check_writable(args.training.folder, "args.save")


def train(args: Arguments) -> None:
    """Train from the beginning or, with `args.resume`, from the step saved last, unless the run has ended."""
    folder, settings = args.training.folder, run_state.settings_of(args, world_size())
    if args.training.resume:
        convert_earlier_state(folder, settings)
    state = run_files.begin(folder, args.training.resume, settings)
    steps = sum(stage.iters for stage in read_stages(args.data_config))
    if state is None or not has_ended(folder, state.step, steps, "data.stages"):
        build_trainer(args, state).run()


def build_trainer(args: Arguments, state: RunState | None) -> AutoencoderTrainer:
    """Build the trainer at the run's beginning, or at a saved state."""
    folders, held_out = (read_buckets(args.data_config, given)
                         for given in (args.training.train_data, args.training.valid_data))
    report_shared(folders, held_out)
    train = MemoryClips.read(folders)
    if state is not None:
        run_state.check_same_clips(state, [train])
    valid = MemoryClips.read(held_out) if held_out else None
    trainer = AutoencoderTrainer(args, build_model(args), read_stages(args.data_config), train, valid, state)
    logger.info("%d clips; %.2f M parameters; %d iterations", len(train),
                sum(p.numel() for p in trainer.model.parameters()) / 1e6, trainer.course.steps)
    return trainer


if __name__ == "__main__":
    sys.exit(run(main))
