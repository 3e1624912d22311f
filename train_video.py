"""Train the video transformer on clips with captions.

    python train_video.py --base configs/tiny_t2v.yaml configs/tiny_t2v_train.yaml
    torchrun --nproc_per_node 2 train_video.py --base configs/tiny_t2v.yaml configs/tiny_t2v_train.yaml

Writes below `args.save`: checkpoints of averaged weights in the layout of released ones, `training/` for `--resume`,
`log.jsonl`, `tensorboard/`, `samples/`. With `args.latent_cache` clips are encoded once, captions too.
"""
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "sat"))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from arguments import Arguments, get_args  # noqa: E402
from checkpoint import check_readable  # noqa: E402
from console import run  # noqa: E402
from data_video import SFTDataset  # noqa: E402
from diffusion_video import FIRST_FRAME_NOISE, DiffusionEngine, check_model  # noqa: E402
from errors import ConfigError  # noqa: E402
from files import from_repository  # noqa: E402
from lora import configure_lora, load_lora, trains_lora_alone  # noqa: E402
from sgm.util import check_config, get_obj_from_str  # noqa: E402
from torch.utils.data import ConcatDataset  # noqa: E402
from training import processes, run_state  # noqa: E402
from training.batches import Batches, CachedClips, LiveClips, remember_text  # noqa: E402
from training.latent_cache import FirstFrameNoise, cached_latents, check_countable, joined  # noqa: E402
from training.loop import Data, Trainer  # noqa: E402
from training.samples import SampleRequest, write_samples  # noqa: E402
from video_io import check_writable  # noqa: E402

logger = logging.getLogger("train_video")


def train_video(argv: Sequence[str] | None = None) -> None:
    args = get_args(argv, __doc__.splitlines()[0])
    check_settings(args)
    with processes.started(args.device, args.model_parallel_size) as args.device:
        if dist.get_rank():
            logging.getLogger().setLevel(logging.WARNING)
        build_trainer(args).run()


def build_trainer(args: Arguments) -> Trainer:
    folder, state = Path(args.save), None
    if args.resume:
        state = run_state.read_latest(folder, run_state.settings_of(args, dist.get_world_size()))
        logger.info("%s: %s", folder, "nothing saved yet" if state is None else f"resuming at step {state.step}")
    else:
        run_state.check_unused(folder)
    engine = build_engine(args, fresh=state is None)
    trainer = Trainer(args, engine, read_data(args, engine), state)
    logger.info("%d clips; %.2f M trained parameters; %d steps of %d clips", len(trainer.data.train),
                sum(p.numel() for p in engine.network.parameters() if p.requires_grad) / 1e6, args.train_iters,
                trainer.deepspeed.train_batch_size())
    return trainer


def check_settings(args: Arguments) -> None:
    """Looks for all that can be wrong before anything is read or built, and fills in what follows from other keys."""
    if not args.train_data or not args.train_iters or not args.deepspeed_config:
        raise ConfigError("training needs args.train_data, args.train_iters and section deepspeed; "
                          "see configs/tiny_t2v_train.yaml")
    check_config(args.data_config, "data")
    precision = {name: bool((args.deepspeed_config.get(name) or {}).get("enabled")) for name in ("fp16", "bf16")}
    args.fp16, args.bf16 = precision["fp16"], precision["bf16"]
    args.config.model.latent_input = args.latent_cache is not None
    check_model(args.model_config)
    if args.load is not None:
        check_readable(args.load)
    if args.load_lora is not None:
        configure_lora(args.model_config, args.load_lora)
    args.save = args.save or str(from_repository("runs") / args.experiment_name)
    check_writable(args.save)


def build_engine(args: Arguments, fresh: bool) -> DiffusionEngine:
    """The engine with its initial weights: those of `args.load` and `args.load_lora`, or random ones that depend on the
    seed. A run to be resumed has its own, but where it trains a LoRA alone those of the model under it are needed."""
    torch.manual_seed(args.seed)
    engine = DiffusionEngine(args)
    engine.disable_untrainable_params()
    if args.load is not None and (fresh or trains_lora_alone(engine.network)):
        run_state.load_initial(engine.network, args.load, args.grow_input)
    if args.load_lora is not None and fresh:
        load_lora(engine.network, args.load_lora)
    return engine


def read_data(args: Arguments, engine: DiffusionEngine) -> Data:
    train = datasets(args, args.train_data)
    valid = datasets(args, args.valid_data or [])
    shown = valid or train
    request = sample_request(args, shown[0], engine.config.noised_image_input) if args.sample_interval else None
    folder = Path(args.save) / "samples"
    data = Data(clips(args, engine, train, "train"), clips(args, engine, valid, "valid") if valid else None,
                request and (lambda step: write_samples(engine, request, folder / f"{step:06d}")))
    if args.latent_cache is not None:
        remember_text(engine.conditioner.embedders)
    return data


def datasets(args: Arguments, folders: Sequence[str]) -> list[SFTDataset]:
    make = get_obj_from_str(args.data_config.target, "data.target").create_dataset_function
    found = [make(folder, args, **args.data_config.params) for folder in folders]
    for dataset in found:
        check_countable(dataset)
    return found


def clips(args: Arguments, engine: DiffusionEngine, found: Sequence[SFTDataset], name: str) -> Batches:
    """The clips of all folders, encoded once where there is a cache."""
    if args.latent_cache is None:
        return LiveClips(ConcatDataset(found))
    noise = None
    if engine.config.noised_image_input:
        noise = FirstFrameNoise(*FIRST_FRAME_NOISE, args.first_frame_variants, args.seed)
    root = Path(args.latent_cache)
    return CachedClips(joined([cached_latents(root / f"{name}-{i}", dataset, engine.first_stage_model, noise)
                               for i, dataset in enumerate(found)]), engine.config.input_key)


def sample_request(args: Arguments, dataset: SFTDataset, with_images: bool) -> SampleRequest:
    """Clips spread over the data set give the captions and first frames."""
    count = min(args.sample_count, len(dataset))
    items = [dataset[i * len(dataset) // count] for i in range(count)]
    form = dataset.form
    height, width = (int(side) // 8 for side in form.video_size)
    shape = ((form.max_num_frames - 1) // 4 + 1, args.latent_channels, height, width)
    images = torch.stack([item["mp4"][0] for item in items]) if with_images else None
    return SampleRequest([item["txt"] for item in items], images, shape, round(form.fps), args.seed)


if __name__ == "__main__":
    sys.exit(run(train_video))
