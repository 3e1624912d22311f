"""The memory that a run will need, by part and by phase, before anything is loaded.

    weights      exactly: the tensors of each part x the bytes of its dtype
    activations  the most bytes alive beside the weights, followed tensor by tensor on the meta device (meter.py); of
                 the text encoder, whose share is small, tokens x 3 x d_ff in its dtype and 3 x heads x tokens^2 floats
    phase        what is on the device at the same time: every part's weights, or with `offload` one part's, or of that
                 only a layer; and the activations of the part that computes. A CPU holds what is offloaded, too, except
                 the text encoder once it has done its work

Beside this come Python and its libraries, and gaps between blocks of memory.

Files are not needed: a text encoder that is not there yet is taken to be T5 v1.1 XXL, which the released models use.
"""
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from configuration.model import ModelConfig
from configuration.settings import Arguments
from configuration.targets import instantiate_from_config
from dry_run.meter import measure
from engine.first_stage import LatentCodec
from engine.text_encoder import check_t5_folder, t5_configs, t5_parameters
from engine.weak_network import weak_config
from inference.sizes import VideoPlan
from vae_modules.autoencoder import VideoAutoencodingEngine, decode_schedule

META = torch.device("meta")
T5_XXL = {"parameters": 4_762_310_656, "d_ff": 10240, "num_heads": 64, "d_model": 4096, "vocab_size": 32128}
TEXT, TRANSFORMER, WEAK, ENCODER, DECODER = (
    "text encoder", "transformer", "weaker transformer", "VAE encoder", "VAE decoder")
TRANSFORMERS = (TRANSFORMER, WEAK)


@dataclass(frozen=True)
class Cost:
    """Of one part: bytes of its weights, of the most that is there of them when layers come one by one, of its
    activations; and the operations of one call."""

    weights: int
    layer: int
    activations: int
    flops: int = 0


@dataclass(frozen=True)
class Estimate:
    """Costs by part, and bytes on the device while each part computes."""

    costs: Mapping[str, Cost]
    phases: Mapping[str, int]

    @property
    def peak(self) -> tuple[str, int]:
        return max(self.phases.items(), key=lambda phase: phase[1])


def estimate(args: Arguments, model: ModelConfig, plan: VideoPlan, rows: int,
             transformers: Mapping[str, Cost] | None = None) -> Estimate:
    """`rows`: videos, guided and unguided, that the transformer sees together; `transformers`: the costs of it, and of
    a weaker one if the guider has it, where they are known."""
    dtype = args.run.dtype
    costs = {TEXT: text_cost(args, model, dtype),
             **(transformers or transformer_costs(args, model, plan, rows, dtype)),
             **autoencoder_costs(args, model, plan, dtype)}
    weights = _weights_on_device(args, costs)
    phases = {name: weights[name] + cost.activations for name, cost in costs.items() if cost.activations}
    if args.run.device.type == "cpu":
        phases[DECODER] += 2 * 3 * plan.frames * plan.height * plan.width  # 8 bits a number, and for the contact sheet
    return Estimate(costs, phases)


def _weights_on_device(args: Arguments, costs: Mapping[str, Cost]) -> dict[str, int]:
    """Bytes of weights by the part that computes."""
    total = sum(cost.weights for cost in costs.values())
    if args.memory.offload is None:
        return dict.fromkeys(costs, total)
    if args.run.device.type == "cpu":
        return {name: total if name == TEXT else total - costs[TEXT].weights for name in costs}
    alone = {name: cost.layer if args.memory.offload == "sequential" else cost.weights for name, cost in costs.items()}
    together = sum(alone[name] for name in TRANSFORMERS if name in alone)
    return alone | {name: together for name in TRANSFORMERS if name in alone}


def text_cost(args: Arguments, model: ModelConfig, dtype: torch.dtype) -> Cost:
    """Prompts are encoded one at a time."""
    weights = layer = activations = 0
    for embedder in t5_configs(model):
        shape = _t5_shape(embedder)
        tokens, matrix = embedder.get("max_length", 77), 1 if args.memory.quantize_t5 else dtype.itemsize
        table = shape["vocab_size"] * shape["d_model"] * dtype.itemsize
        weights += table + matrix * (shape["parameters"] - shape["vocab_size"] * shape["d_model"])
        layer = max(layer, table + matrix * shape["d_ff"] * shape["d_model"])
        activations = max(activations, tokens * 3 * shape["d_ff"] * dtype.itemsize
                          + 3 * 4 * shape["num_heads"] * tokens ** 2)
    return Cost(weights, layer, activations)


def _t5_shape(embedder: Mapping) -> Mapping:
    if not Path(embedder.get("model_dir") or "").is_dir():
        return T5_XXL
    folder = check_t5_folder(embedder["model_dir"])
    config = json.loads((folder.encoder / "config.json").read_text(encoding="utf-8"))
    return {**config, "parameters": t5_parameters(folder)}


def transformer_costs(args: Arguments, model: ModelConfig, plan: VideoPlan, rows: int, dtype: torch.dtype
                      ) -> dict[str, Cost]:
    """Of the model's own, which may be quantized, and of the weaker one, if the guider has it."""
    matrix = 1 if args.memory.quantize_transformer else None
    costs = {TRANSFORMER: _transformer_cost(model.network_config, plan, rows, dtype, args.run.device, matrix)}
    guider = instantiate_from_config(model.sampler_config).guider if model.sampler_config else None
    if guider is not None and guider.weak is not None:
        weak = weak_config(guider, model.network_config)
        costs[WEAK] = _transformer_cost(weak, plan, rows, dtype, args.run.device)
    return costs


def _transformer_cost(config: Mapping, plan: VideoPlan, rows: int, dtype: torch.dtype, device: torch.device,
                      matrix: int | None = None) -> Cost:
    params = config["params"]
    with META:
        network = instantiate_from_config(config).to(dtype)
        frames, _, height, width = plan.latent_shape
        x = torch.empty(rows, frames, params["in_channels"], height, width, dtype=dtype)
        text = torch.empty(rows, *_text_shape(params), dtype=dtype)
        inputs = {} if params.get("ofs_embed_dim") is None else {"ofs": torch.empty(1)}
        timestep = torch.empty(1)
    activations, flops = measure(lambda: network(x, timestep, text, **inputs), device)
    return Cost(weights_of(network, matrix), layer_of(network, matrix), activations, flops)


def _text_shape(params: Mapping) -> tuple[int, int]:
    positions, patches = (params["modules"][part].get("params") or {}
                          for part in ("pos_embed_config", "patch_embed_config"))
    return positions.get("text_length", 0), patches.get("text_hidden_size") or params["hidden_size"]


def autoencoder_costs(args: Arguments, model: ModelConfig, plan: VideoPlan, dtype: torch.dtype) -> dict[str, Cost]:
    """Of the encoder, which computes only where an image or a clip is given, and of the decoder."""
    config = {**model.first_stage_config, "params": {**model.first_stage_config["params"], "ckpt_path": None}}
    with META:
        codec = LatentCodec(config, model.scale_factor).to(dtype)
        codec.save_memory(args.autoencoder)
        latents = torch.empty(1, plan.channels, plan.latent_frames - plan.pad_latents, plan.latent_height,
                              plan.latent_width, dtype=dtype)
        from_clip = args.sampling.strength is not None or args.sampling.invert
        given = plan.frames if from_clip else int(model.noised_image_input)
        video = torch.empty(1, 3, given, plan.height, plan.width, dtype=dtype)
    vae = codec.first_stage_model
    encoded = measure(lambda: vae.encode(video, unregularized=True), args.run.device) if given else (0, 0)
    decoded = decoding(vae, latents, args.run.device)
    return {name: Cost(weights_of(part), weights_of(part), *cost)
            for name, part, cost in ((ENCODER, vae.encoder, encoded), (DECODER, vae.decoder, decoded))}


def decoding(vae: VideoAutoencodingEngine, latents: Tensor, device: torch.device) -> tuple[int, int]:
    """(bytes, operations). Chunks after the second are as the second and tiles as the first: those tell of them all."""
    rows, columns = ([slice(None)], [slice(None)]) if vae.tiling is None else vae.tiling.spans(*latents.shape[-2:])
    tile, chunks = latents[..., rows[0], columns[0]], decode_schedule(latents.shape[2])

    def measured(count: int) -> tuple[int, int]:
        return measure(lambda: [None for _ in vae.decode_chunks(tile[:, :, :sum(chunks[:count])])], device)

    peak, flops = measured(2)
    if len(chunks) > 2:
        flops += (flops - measured(1)[1]) * (len(chunks) - 2)
    if len(rows) * len(columns) > 1:  # the whole video, a tile of it, and what makes or blends the tile
        peak = _frames(latents) + _frames(tile) + max(peak, 2 * _frames(tile))
    return peak, flops * len(rows) * len(columns)


def _frames(latents: Tensor) -> int:
    """Bytes of the frames that are decoded from latents."""
    height, width = latents.shape[-2:]
    return 3 * (4 * latents.shape[2] - 3) * 8 * height * 8 * width * latents.element_size()


def weights_of(module: nn.Module, matrix: int | None = None) -> int:
    """Bytes of a module's tensors; `matrix`: bytes of a number in matrices that are quantized, a LoRA's are not."""
    return sum(t.numel() * (matrix if matrix and t.dim() == 2 and name.endswith("weight") else t.element_size())
               for name, t in (*module.named_parameters(), *module.named_buffers()))


def layer_of(module: nn.Module, matrix: int | None = None) -> int:
    """Bytes when layers with a weight come one at a time and only the rest stays."""
    layers = [weights_of(m, matrix) for m in module.modules() if isinstance(getattr(m, "weight", None), nn.Parameter)]
    return weights_of(module, matrix) - sum(layers) + max(layers, default=0)


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left."""
    if device.type != "cpu":
        return torch.accelerator.get_memory_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        return next(1024 * int(line.split()[1]) for line in meminfo.read_text().splitlines()
                    if line.startswith("MemAvailable"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
