"""Train the video transformer on clips with captions.

    python train_video.py --base configs/tiny_t2v.yaml configs/tiny_t2v_train.yaml
    torchrun --nproc_per_node 2 train_video.py --base configs/tiny_t2v.yaml configs/tiny_t2v_train.yaml

Writes below `args.save`: checkpoints of averaged weights in the layout of released ones, `training/` for `--resume`,
`log.jsonl`, `tensorboard/`, `samples/`. With `args.latent_cache` clips are encoded once, captions too.
"""
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "sat"))

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import nn

from arguments import get_args
from common.console import run
from common.errors import ConfigError
from common.files import check_writable, from_repository
from configuration.settings import Arguments, resolve_dtype
from configuration.targets import check_config
from diffusion_video import DiffusionEngine
from engine.checks import check_device, check_model
from engine.process_checks import settle_size
from parallel import launch
from training import run_files, run_state
from training.data.encoders import Encoders
from training.data.sources import check_data, read_sources, sample_request
from training.loop import Data, Trainer
from training.samples import write_samples
from weights.lora import configure_lora, load_lora, trains_lora_alone
from weights.network import build_network, check_network
from weights.sources import transformer_weights

RECOMPUTE = "model.network_config.params.transformer_args.checkpoint_activations"

logger = logging.getLogger("train_video")


def train_video(argv: Sequence[str] | None = None) -> None:
    args = get_args(argv, __doc__.splitlines()[0])
    check_settings(args)
    with launch.started(args.device, args.model_parallel_size) as args.device:
        if dist.get_rank():
            logging.getLogger().setLevel(logging.WARNING)
        build_trainer(args).run()


def build_trainer(args: Arguments) -> Trainer:
    folder, state = Path(args.save), None
    if args.resume:
        state = run_files.read_latest(folder, run_state.settings_of(args, dist.get_world_size()))
        logger.info("%s: %s", folder, "nothing saved yet" if state is None else f"resuming at step {state.step}")
    else:
        run_files.check_unused(folder)
    run_files.clear_unfinished(folder)
    sources = read_sources(args)
    if state is not None:
        run_state.check_clips(state, sources.train)
    engine = build_engine(args, fresh=state is None, text=sources.text)
    trained = sum(p.numel() for p in engine.network.parameters() if p.requires_grad) / 1e6
    request = sample_request(args, sources.shown)
    trainer = Trainer(args, engine, Data(sources.train, sources.valid, request and (
        lambda step: write_samples(engine, request, folder / "samples" / f"{step:06d}"))), state)
    logger.info("%d clips in %d bucket(s); %.2f M trained parameters; %d steps of %d clips",
                sum(map(len, sources.train)), len(sources.train), trained, args.train_iters,
                trainer.deepspeed.train_batch_size())
    return trainer


def check_settings(args: Arguments) -> None:
    """Looks for all that can be wrong before anything is read or built, and fills in what follows from other keys."""
    if not args.train_data or not args.train_iters or not args.deepspeed_config:
        raise ConfigError("training needs args.train_data, args.train_iters and section deepspeed; "
                          "see configs/tiny_t2v_train.yaml")
    check_config(args.data_config, "data")
    settle_size(args)
    if args.model_parallel_size > 1:
        raise ConfigError(f"args.model_parallel_size is {args.model_parallel_size}; training divides weights by "
                          "deepspeed.zero_optimization.stage: 3 instead; set it to 1")
    precision = {name: bool((args.deepspeed_config.get(name) or {}).get("enabled")) for name in ("fp16", "bf16")}
    args.fp16, args.bf16 = precision["fp16"], precision["bf16"]
    args.config.model.latent_input = args.latent_cache is not None
    if args.checkpoint_activations:
        OmegaConf.update(args.config, RECOMPUTE, True, force_add=True)
    check_device(check_model(args.model_config), args.device, resolve_dtype(args.fp16, args.bf16))
    check_data(args)
    if args.sample_interval and (args.deepspeed_config.get("zero_optimization") or {}).get("stage") == 3:
        raise ConfigError("args.sample_interval: no samples are made while weights are divided among processes "
                          "(deepspeed.zero_optimization.stage 3); set it to null and sample from the checkpoints")
    if args.load_lora is not None:
        configure_lora(args.model_config, args.load_lora)
    if args.load is not None and (args.grow_input or args.force_train):  # it need not fit
        transformer_weights(args.load)
    elif args.load is not None:
        check_network(args.model_config.network_config, args.load)
    args.save = args.save or str(from_repository("runs") / args.experiment_name)
    check_writable(args.save)


def build_engine(args: Arguments, fresh: bool, text: Mapping | None = None) -> DiffusionEngine:
    """The engine with its initial weights: those of `args.load` and `args.load_lora`, or random ones that depend on the
    seed. A run to be resumed then gets its own, but of a run that trains a LoRA alone those of the model under it stay.

    With cached `text` (see `training.sources`) it has no text encoder, and a first stage for samples alone.
    """
    torch.manual_seed(args.seed)
    partly = args.grow_input or args.force_train
    network = None
    if args.load is not None and not partly:
        dtype = resolve_dtype(args.fp16, args.bf16)
        network = build_network(args.model_config.network_config, args.load, dtype, args.device)
    engine = DiffusionEngine(args, network) if text is None else without_encoders(args, text, network)
    engine.disable_untrainable_params()
    if args.load is not None and partly and (fresh or trains_lora_alone(engine.network)):
        run_state.load_partly(engine.network, args.load, args.grow_input, args.force_train)
    if args.load_lora is not None and fresh:
        load_lora(engine.network, args.load_lora)
    return engine


def without_encoders(args: Arguments, text: Mapping, network: nn.Module | None) -> DiffusionEngine:
    encoders = Encoders(args)
    engine = DiffusionEngine(encoders.without(), network)
    for number, known in text.items():
        engine.conditioner.embedders[number].known = known
    image_to_video = engine.config.noised_image_input
    if args.sample_interval and (image_to_video or not args.only_log_video_latents):
        engine.first_stage_model = encoders.vae
    return engine


if __name__ == "__main__":
    sys.exit(run(train_video))
