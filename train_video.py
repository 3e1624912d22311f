"""Train the video transformer on clips with captions.

    python train_video.py --base configs/tiny_t2v.yaml configs/tiny_t2v_train.yaml
    torchrun --nproc_per_node 2 train_video.py --base configs/tiny_t2v.yaml configs/tiny_t2v_train.yaml

Writes below `args.save`: checkpoints of averaged weights in the layout of released ones, `training/` for `--resume`,
`log.jsonl`, `tensorboard/` and `samples/`. With `args.latent_cache`, clips and captions are encoded once. With `--plan`
nothing is loaded or written: it reports the memory that the run takes, by part.
"""
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "sat"))

import torch
from omegaconf import OmegaConf
from torch import nn

from arguments import get_args
from common.console import faults_beside, run
from common.errors import ConfigError
from common.files import check_writable, from_repository, sole_use
from common.listing import listed
from common.ranks import is_main_process, report_once, world_size
from configuration.model import MAX, ModelConfig
from configuration.settings import Arguments, TrainingSettings
from configuration.targets import check_data_section, instantiate_from_config
from configuration.unread import warn_precision, warn_typed
from data_video import clip_forms_of
from diffusion_video import TRANSFORMER_PREFIX, DiffusionEngine, check_prefixes
from dry_run.training_report import show_training_plan
from engine.checks import check_device, check_model, check_structure, typed_model
from engine.first_stage import CKPT_PATH, is_random, samples_need_autoencoder
from engine.process_checks import merge_size_keys
from parallel import launch
from training import run_files, run_state
from training.continuation import has_ended
from training.data.encoders import Encoders
from training.data.folders import check_apart
from training.data.sources import check_data, read_sources, sample_request
from training.deepspeed_section import check_deepspeed
from training.metrics import check_wandb
from training.run_state import RunState
from training.samples import write_samples
from training.transformer import Data, TransformerTrainer
from weights.checkpoint import check_there
from weights.lora import check_training, configure_lora, load_lora, trains_only_lora, without_gradient
from weights.network import build_network, check_network
from weights.sources import transformer_weights

TRANSFORMER_ARGS = "model.network_config.params.transformer_args"

logger = logging.getLogger("train_video")


def train_video(argv: Sequence[str] | None = None) -> None:
    with report_once():
        args = get_args(argv, __doc__.splitlines()[0])
        if args.run.plan:
            plan(args)
            return
        check_settings(args)
        folder = args.training.folder
        with faults_beside(folder), launch.launched(args.run.device, deepspeed=True) as device, sole_use(folder):
            args.run.device = device
            if not is_main_process():
                logging.getLogger().setLevel(logging.WARNING)
            train(args)


def plan(args: Arguments) -> None:
    """Report the memory that a run takes; needs neither weights nor clips. Raises as `check_settings` does."""
    configure(args)
    check_structure(typed_model(args.model_config))
    check_data(args)
    configure_lora(args.model_config, args.run)
    if is_main_process():
        show_training_plan(args, clip_forms_of(args.data_config.params))


def train(args: Arguments) -> None:
    """Train from the beginning or, with `args.resume`, from the step saved last, unless the run has ended."""
    folder, steps = args.training.folder, args.training.train_iters
    assert steps is not None  # checked with the settings
    state = run_files.begin(folder, args.training.resume, run_state.transformer_settings(args, world_size()))
    if state is None or not has_ended(folder, state.step, steps, "args.train_iters"):
        build_trainer(args, state).run()


def build_trainer(args: Arguments, state: RunState | None) -> TransformerTrainer:
    folder = args.training.folder
    sources = read_sources(args)
    if state is not None:
        run_state.check_same_clips(state, sources.train)
    engine = build_engine(args, fresh=state is None, text=sources.text)
    trained = sum(p.numel() for p in engine.network.parameters() if p.requires_grad) / 1e6
    request = sample_request(args, sources.shown)

    def write(step: int) -> None:
        assert request is not None
        write_samples(engine, request, folder / "samples" / f"{step:06d}")

    data = Data(sources.train, sources.valid, None if request is None else write)
    trainer = TransformerTrainer(args, engine, data, state)
    logger.info("%d clips in %d bucket(s); %.2f M trained parameters; %d steps of %d clips",
                sum(map(len, sources.train)), len(sources.train), trained, args.training.train_iters,
                trainer.deepspeed.train_batch_size())
    return trainer


def check_settings(args: Arguments) -> None:
    """Check all settings before anything is read or built, and fill in those that follow from others.

    Raises ConfigError or CheckpointError for the first mistake.
    """
    configure(args)
    launch.check_launcher()
    check_there(args.run.load)
    model = check_model(args.model_config)
    if model.compile_model == MAX:
        raise ConfigError(f"model.compile_model: {MAX} is for sampling, since training keeps what a graph would write "
                          "over; use true or regional")
    check_device(model, args.run.device, args.run.dtype)
    if is_random(model.first_stage_config) and is_main_process():
        logger.warning("%s is null: the autoencoder has random weights", CKPT_PATH)
    _check_loss(model)
    check_data(args)
    check_training(args.run)
    _check_lora(args, model)
    _check_warm_up(args.training.warmup_iters, args.training.train_iters)
    _warn_no_validation(args.training)
    configure_lora(args.model_config, args.run)
    partly = args.training.grow_input or args.training.force_train
    if args.run.load is None and args.training.grow_input:
        raise ConfigError("args.grow_input is about the weights of args.load, which is not set; set it, or leave "
                          "args.grow_input out")
    if args.run.load is not None and partly:  # these weights need not fit the network
        transformer_weights(args.run.load)
    elif args.run.load is not None:
        check_network(args.model_config.network_config, args.run.load)
    args.training.save = args.training.save or str(from_repository("runs") / args.training.experiment_name)
    if args.training.wandb:
        check_wandb()
    check_apart(args.training)
    check_writable(args.training.save, "args.save")
    cache = args.training.latent_cache
    if cache is not None and Path(cache).exists() and not Path(cache).is_dir():
        raise ConfigError(f"args.latent_cache is {cache}, which is a file; give a folder")


def _check_loss(model: ModelConfig) -> None:
    """Raise ConfigError if there is no loss, or if it draws its levels from another table than the denoiser's."""
    if model.loss_fn_config is None:
        raise ConfigError("model.loss_fn_config is missing; give the loss's target and params")
    loss, denoiser = instantiate_from_config(model.loss_fn_config), instantiate_from_config(model.denoiser_config)
    drawn, known = getattr(loss.sigma_sampler, "sigmas", None), getattr(denoiser, "sigmas", None)
    if drawn is None or known is None:
        return
    drawn, known = drawn.sort().values, known.sort().values
    if drawn.shape != known.shape or not torch.allclose(drawn, known):
        raise ConfigError("model.loss_fn_config.params.sigma_sampler_config draws from another table of levels than "
                          "model.denoiser_config has; make num_idx and discretization_config of both equal")


def _check_lora(args: Arguments, model: ModelConfig) -> None:
    """Raise ConfigError for a LoRA that is not trained alone; log a warning if it is trained over random weights."""
    modules = args.model_config.network_config.params.modules
    if modules.get("lora_config") is None:
        return
    if "all" not in model.not_trainable_prefixes:
        raise ConfigError("model.network_config has a lora_config, and a LoRA is trained alone; set "
                          "model.not_trainable_prefixes=[all], or leave lora_config out")
    if args.run.load is None and is_main_process():
        logger.warning("args.load is missing: the LoRA is trained over random weights, and is of no use elsewhere")


def configure(args: Arguments) -> None:
    """Check the settings that need no files, and fill in those that follow from others. Raises as `check_settings`."""
    if not args.training.train_data or not args.training.train_iters or not args.deepspeed_config:
        raise ConfigError("training needs args.train_data, args.train_iters and section deepspeed; "
                          "see configs/tiny_t2v_train.yaml")
    warn_typed(args, "train_video.py")
    args.config.deepspeed = check_deepspeed(args.deepspeed_config, world_size())
    args.config.data = check_data_section(args.data_config)
    merge_size_keys(args)
    if args.run.model_parallel_size > 1:
        raise ConfigError(f"args.model_parallel_size is {args.run.model_parallel_size}; training divides weights with "
                          "deepspeed.zero_optimization.stage: 3 instead; set it to 1")
    precision = {name: bool((args.deepspeed_config.get(name) or {}).get("enabled")) for name in ("fp16", "bf16")}
    warn_precision(args)
    args.run.fp16, args.run.bf16 = precision["fp16"], precision["bf16"]
    args.config.model.latent_input = args.training.latent_cache is not None
    _set_activations(args)
    _check_last_frames(args)
    if args.training.sample_interval and (args.deepspeed_config.get("zero_optimization") or {}).get("stage") == 3:
        raise ConfigError("args.sample_interval: no samples are made while weights are divided among processes "
                          "(deepspeed.zero_optimization.stage 3); set it to null and sample from the checkpoints")


def _set_activations(args: Arguments) -> None:
    """Let the network compute activations again, and keep what that needs in CPU memory, as the settings ask."""
    for key in ("checkpoint_activations", "offload_activations"):
        if getattr(args.training, key):
            OmegaConf.update(args.config, f"{TRANSFORMER_ARGS}.{key}", True, force_add=True)
    asked = OmegaConf.select(args.config, TRANSFORMER_ARGS)
    if not OmegaConf.is_dict(asked):
        return
    if asked.get("offload_activations") and not asked.get("checkpoint_activations"):
        raise ConfigError("args.offload_activations keeps the inputs of layers whose activations are computed again; "
                          "set args.checkpoint_activations too")
    if asked.get("offload_activations") and args.run.device.type == "cpu":
        raise ConfigError("args.offload_activations has no effect on a CPU, whose memory already holds them; leave it "
                          "out")


def _check_warm_up(warm_up: int, steps: int | None) -> None:
    if steps is not None and warm_up >= steps and is_main_process():
        logger.warning("args.warmup_iters is %d: in %d steps the learning rate never reaches its peak", warm_up, steps)


def _warn_no_validation(settings: TrainingSettings) -> None:
    if bool(settings.valid_data) != bool(settings.eval_interval) and is_main_process():
        given, lacking = ("valid_data", "eval_interval")[::1 if settings.valid_data else -1]
        logger.warning("args.%s has no effect without args.%s: there is no validation", given, lacking)


def _check_last_frames(args: Arguments) -> None:
    if args.training.last_frame_rate and not args.model_config.get("noised_image_input"):
        raise ConfigError("args.last_frame_rate: only an image-to-video model is given frames; set it to 0")
    if args.training.last_frame_rate and args.model_config.get("noised_image_all_concat"):
        raise ConfigError("args.last_frame_rate does not work with model.noised_image_all_concat, which gives every "
                          "latent frame the first one; leave one out")


def build_engine(args: Arguments, fresh: bool, text: Mapping | None = None) -> DiffusionEngine:
    """Build the engine with initial weights: those of `args.load` and `args.load_lora`, or random ones from the seed.

    `fresh` is False if the state of a stopped run is loaded afterwards: the LoRA, and weights of `args.load` that only
    partly fit, are then left out where that state replaces them. With cached `text` (see `training.sources`) the engine
    has no text encoder, and an autoencoder only if samples need one.
    """
    torch.manual_seed(args.run.seed)
    partly = args.training.grow_input or args.training.force_train
    network = None
    if args.run.load is not None and not partly:
        dtype = args.run.dtype
        network = build_network(args.model_config.network_config, args.run.load, dtype, args.run.device)
    if text is None:
        engine = DiffusionEngine(args.of_engine(), network)
        engine.configure_memory(args.autoencoder)
    else:
        engine = without_encoders(args, text, network)
    check_prefixes(engine)
    engine.disable_untrainable_params()
    check_trained(engine)
    engine.last_frame_rate = args.training.last_frame_rate
    if args.run.load is not None and partly and (fresh or trains_only_lora(engine.network)):
        run_state.load_partial(engine.network, args.run.load, args.training.grow_input, args.training.force_train)
    if fresh:
        load_lora(engine.network, args.run)
        if still := without_gradient(engine.network):
            logger.warning("args.load_lora has nothing for %d matrices of its layers, which stay zero in training: %s",
                           len(still), listed(still))
    return engine


def check_trained(engine: DiffusionEngine) -> None:
    """Raise ConfigError for trained weights outside of the transformer, which no checkpoint of the run would have."""
    others = [name for name, parameter in engine.named_parameters()
              if parameter.requires_grad and not name.startswith(TRANSFORMER_PREFIX)]
    if others:
        raise ConfigError(f"{others[0]} and {len(others) - 1} others would be trained, but checkpoints have the "
                          f"transformer alone; add {others[0].partition('.')[0]} to model.not_trainable_prefixes")


def without_encoders(args: Arguments, text: Mapping, network: nn.Module | None) -> DiffusionEngine:
    """Build an engine that looks text embeddings up in `text` and has an autoencoder only if samples need one."""
    encoders = Encoders(args)
    engine = DiffusionEngine(encoders.without().of_engine(), network)
    for number, known in text.items():
        engine.conditioner.embedders[number].known = known
    if samples_need_autoencoder(args.training, engine.config):
        engine.first_stage_model = encoders.vae
    return engine


if __name__ == "__main__":
    sys.exit(run(train_video))
