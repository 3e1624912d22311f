"""Estimates of the memory that a run will need, by part and by phase, before anything is loaded.

    weights      exact: the elements of each part's tensors x the bytes of their dtype
    activations  the most bytes of other tensors at a time, measured on the meta device (meter.py); for the text
                 encoder, whose share is small, tokens x 3 x d_ff in its dtype and 3 x heads x tokens^2 floats
    phase        what is on the device while one part computes: its activations, and the weights of every part, or with
                 `offload` of that part or of one layer of it. On a CPU, offloaded weights count as well, except the
                 text encoder's once all prompts are encoded

Python, its libraries and gaps between blocks of memory come on top.

Files are not needed: a text encoder without its folder is taken to be T5 v1.1 XXL, which the released models use.
"""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common.compression import Compression
from common.machine import physical_memory
from configuration.model import ModelConfig
from configuration.settings import DECODING, Arguments, MemorySettings, RunSettings
from configuration.targets import instantiate_from_config
from dry_run.meter import measure, measure_parts
from dry_run.work import Work
from engine.first_stage import LatentCodec
from engine.t5_files import check_t5_folder, t5_config, t5_parameters
from engine.text_encoder import t5_configs
from engine.weak_network import weak_config
from inference.continuing import segments_of
from inference.sizes import VideoPlan, model_limits
from memory.prefetch import LAYERS_AHEAD
from vae_modules.autoencoder import VideoAutoencodingEngine, decode_schedule

META = torch.device("meta")
T5_XXL = {"parameters": 4_762_310_656, "d_ff": 10240, "num_heads": 64, "d_model": 4096, "vocab_size": 32128}
TEXT, TRANSFORMER, WEAK, ENCODER, DECODER = (
    "text encoder", "transformer", "weaker transformer", "VAE encoder", "VAE decoder")
TRANSFORMERS = (TRANSFORMER, WEAK)
TOGETHER = "transformer beside the video before"


@dataclass(frozen=True)
class Cost:
    """The memory and arithmetic that one part needs.

    In bytes: `weights`, those on the device if the part is offloaded by layer (`layer`), and `activations`. `work` is
    that of one forward pass.
    """

    weights: int
    layer: int
    activations: int
    work: Work = Work()


@dataclass(frozen=True)
class Estimate:
    """The costs by part, and the bytes on the device while each part computes."""

    costs: Mapping[str, Cost]
    phases: Mapping[str, int]

    @property
    def peak(self) -> tuple[str, int]:
        """The phase that needs the most memory, and its bytes."""
        return max(self.phases.items(), key=lambda phase: phase[1])


def estimate(args: Arguments, model: ModelConfig, plan: VideoPlan, rows: int,
             transformers: Mapping[str, Cost] | None = None) -> Estimate:
    """Estimate the costs of a run.

    `rows` are those of one forward pass of the transformer: the branches of all its videos. `transformers` are the
    costs of the transformer, and of a weaker one if the guider has it; None computes them.
    """
    dtype = args.run.dtype
    costs = {TEXT: text_cost(model, dtype, args.memory.quantize_t5 is not None),
             **(transformers or transformer_costs(args.run, args.memory, model, plan, rows)),
             **autoencoder_costs(args, model, plan, dtype)}
    weights = _weights_on_device(args.memory.offload, args.run.device, costs)
    phases = {name: weights[name] + cost.activations for name, cost in costs.items() if cost.activations}
    if args.run.device.type == "cpu":
        phases[DECODER] += 2 * 3 * plan.frames * plan.height * plan.width  # uint8, and a copy for the contact sheet
    together = _together(args, costs, weights, plan)
    return Estimate(costs, phases if together is None else phases | {TOGETHER: together})


def _together(args: Arguments, costs: Mapping[str, Cost], weights: Mapping[str, int], plan: VideoPlan) -> int | None:
    """Return the bytes while the transformer computes and what was sampled before is finished; None if nothing is."""
    how = args.sampling.overlap
    pixels = 2 * 3 * plan.frames * plan.height * plan.width if args.run.device.type == "cpu" else 0
    if how is None or args.sampling.only_save_latents:
        return None
    decoded = costs[DECODER].activations if how == DECODING else 0
    return weights[TRANSFORMER] + costs[TRANSFORMER].activations + decoded + pixels


def _weights_on_device(offload: str | None, device: torch.device, costs: Mapping[str, Cost]) -> dict[str, int]:
    """Return the bytes of all weights on the device while each part computes."""
    total = sum(cost.weights for cost in costs.values())
    if offload is None:
        return dict.fromkeys(costs, total)
    if device.type == "cpu":
        return {name: total if name == TEXT else total - costs[TEXT].weights for name in costs}
    alone = {name: cost.layer if offload == "sequential" else cost.weights for name, cost in costs.items()}
    together = sum(alone[name] for name in TRANSFORMERS if name in alone)
    return alone | {name: together for name in TRANSFORMERS if name in alone}


def text_cost(model: ModelConfig, dtype: torch.dtype, quantized: bool) -> Cost:
    """Return the cost of the text encoder, which encodes one prompt at a time."""
    weights = layer = activations = 0
    for embedder in t5_configs(model):
        shape = _t5_shape(embedder)
        tokens, matrix = embedder.get("max_length", 77), 1 if quantized else dtype.itemsize
        table = shape["vocab_size"] * shape["d_model"] * dtype.itemsize
        weights += table + matrix * (shape["parameters"] - shape["vocab_size"] * shape["d_model"])
        layer = max(layer, table + matrix * shape["d_ff"] * shape["d_model"])
        activations = max(activations, tokens * 3 * shape["d_ff"] * dtype.itemsize
                          + 3 * 4 * shape["num_heads"] * tokens ** 2)
    return Cost(weights, layer, activations)


def _t5_shape(embedder: Mapping) -> Mapping:
    if not embedder.get("model_dir") or not Path(embedder["model_dir"]).exists():
        return T5_XXL
    folder = check_t5_folder(embedder["model_dir"])
    return {**t5_config(folder), "parameters": t5_parameters(folder)}


def frames_of_pass(model: ModelConfig, frames: int) -> int:
    """Return the most latent frames that one forward pass is given of a video of `frames`."""
    if model.time_windows is None or model.windows_below is not None:
        return frames
    return min(frames, model.time_windows[0])


def transformer_costs(run: RunSettings, memory: MemorySettings, model: ModelConfig, plan: VideoPlan, rows: int
                      ) -> dict[str, Cost]:
    """Return the costs of the transformer, maybe quantized, and of the weaker one if the guider has it."""
    matrix = 1 if memory.quantize_transformer else None
    plan = replace(plan, latent_frames=frames_of_pass(model, plan.latent_frames))
    costs = {TRANSFORMER: _transformer_cost(model.network_config, plan, rows, run.dtype, run.device, matrix)}
    guider = instantiate_from_config(model.sampler_config).guider if model.sampler_config else None
    if guider is not None and guider.weak is not None:
        weak = weak_config(guider, model.network_config)
        costs[WEAK] = _transformer_cost(weak, plan, rows, run.dtype, run.device, matrix)
    return costs


def _transformer_cost(config: Mapping, plan: VideoPlan, rows: int, dtype: torch.dtype, device: torch.device,
                      matrix: int | None = None) -> Cost:
    with META:
        network = instantiate_from_config(config).to(dtype)
    frames, _, height, width = plan.latent_shape
    activations, work = measure(forward_pass(network, config["params"], rows, (frames, height, width), dtype), device)
    return Cost(weight_bytes(network, matrix), layer_bytes(network, matrix), activations, work)


def forward_pass(network: nn.Module, params: Mapping, rows: int, size: tuple[int, int, int], dtype: torch.dtype,
                 timesteps: int = 1) -> Callable[[], Tensor]:
    """Return a function that runs a network on the meta device on `rows` latents of a size (T, h, w).

    Its inputs exist from now on. `timesteps` is their number: one for all rows, or one for each.
    """
    with META:
        x = torch.empty(rows, size[0], params["in_channels"], *size[1:], dtype=dtype)
        text = torch.empty(rows, *text_shape(params), dtype=dtype)
        inputs = {} if params.get("ofs_embed_dim") is None else {"ofs": torch.empty(1)}
        t = torch.empty(timesteps)
    return lambda: network(x, t, text, **inputs)


def text_shape(params: Mapping) -> tuple[int, int]:
    """Return the tokens and width of the text embeddings that a network's parameters ask for."""
    positions, patches = (params["modules"][part].get("params") or {}
                          for part in ("pos_embed_config", "patch_embed_config"))
    return positions.get("text_length", 0), patches.get("text_hidden_size") or params["hidden_size"]


def autoencoder_costs(args: Arguments, model: ModelConfig, plan: VideoPlan, dtype: torch.dtype) -> dict[str, Cost]:
    """Return the costs of the decoder, and of the encoder, which computes only if an image or a clip is given."""
    config = {**model.first_stage_config, "params": {**model.first_stage_config["params"], "ckpt_path": None}}
    with META:
        codec = LatentCodec(config, model.scale_factor).to(dtype)
        codec.configure_memory(args.autoencoder)
        latents = torch.empty(1, plan.channels, plan.latent_frames - plan.pad_latents, plan.latent_height,
                              plan.latent_width, dtype=dtype)
        from_clip = args.sampling.strength is not None or args.sampling.invert or model.control_input
        given = plan.frames if from_clip else int(model.noised_image_input)
        if (segments := segments_of(args.sampling, model_limits(args.model_config))) is not None:
            given = segments.kept_frames
        video = torch.empty(1, 3, given, plan.height, plan.width, dtype=dtype)
    vae = codec.first_stage_model
    encoded = measure(lambda: vae.encode(video, unregularized=True), args.run.device) if given else (0, Work())
    decoded = decoding(vae, latents, args.run.device)
    return {name: Cost(weight_bytes(part), weight_bytes(part), *cost)
            for name, part, cost in ((ENCODER, vae.encoder, encoded), (DECODER, vae.decoder, decoded))}


def decoding(vae: VideoAutoencodingEngine, latents: Tensor, device: torch.device) -> tuple[int, Work]:
    """Return the bytes and the work of decoding latents (1, C, T, h, w).

    Only two chunks of one tile are measured: later chunks cost as much as the second, and all tiles the same.
    """
    if vae.tiling is None:
        rows = columns = [slice(None)]
    else:
        rows, columns = vae.tiling.spans(*latents.shape[-2:])
    tile, chunks = latents[..., rows[0], columns[0]], decode_schedule(latents.shape[2])

    peak, (work, *later) = measure_parts(lambda: vae.decode_chunks(tile[:, :, :sum(chunks[:2])]), device)
    for each in later:
        work += each * (len(chunks) - 1)
    if len(rows) * len(columns) > 1:  # the whole video, one tile, and what computes or blends it
        whole, one = (_frames(shown, vae.decoder.compression) for shown in (latents, tile))
        peak = whole + one + max(peak, 2 * one)
    return peak, work * (len(rows) * len(columns))


def _frames(latents: Tensor, compression: Compression) -> int:
    """Return the bytes of the frames that are decoded from latents."""
    height, width = compression.video_size(*latents.shape[-2:])
    return 3 * compression.video_frames(latents.shape[2]) * height * width * latents.element_size()


def weight_bytes(module: nn.Module, matrix: int | None = None) -> int:
    """Return the bytes of a module's tensors.

    `matrix` is the bytes of an element in quantized matrices, None without quantization. A LoRA's matrices are never
    quantized.
    """
    total = 0
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        is_matrix = tensor.dim() == 2 and name.endswith("weight")
        total += tensor.numel() * (matrix if matrix and is_matrix else tensor.element_size())
    return total


def layer_bytes(module: nn.Module, matrix: int | None = None) -> int:
    """Return the most bytes of a module offloaded by layer: what is in no layer with a weight, and the layers there.

    These are the largest alone if it is quantized; else one for each shape, whose buffers stay, and those ahead.
    """
    layers = [m for m in module.modules() if isinstance(getattr(m, "weight", None), nn.Parameter)]
    sizes = sorted((weight_bytes(m, matrix) for m in layers), reverse=True)
    rest = weight_bytes(module, matrix) - sum(sizes)
    if matrix:
        return rest + max(sizes, default=0)
    shapes = {tuple(p.shape for p in m.parameters(recurse=False)): weight_bytes(m) for m in layers}
    for size in shapes.values():
        sizes.remove(size)
    return rest + sum(shapes.values()) + sum(sizes[:LAYERS_AHEAD])


def free_memory(device: torch.device) -> int:
    """Return the bytes of free memory of a device; where the system does not say, of all the machine's memory."""
    if device.type != "cpu":
        try:
            return torch.accelerator.get_memory_info(device)[0]
        except (RuntimeError, NotImplementedError):  # devices that share the machine's memory may not count it
            return physical_memory()
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        return next(1024 * int(line.split()[1]) for line in meminfo.read_text(encoding="utf-8").splitlines()
                    if line.startswith("MemAvailable"))
    return physical_memory()
