"""The same LoRA in the spellings of many trainers, for the tests."""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

PROJECTIONS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
LAYERS = ("ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear")
SIZES = {"ff.net.0.proj": (256, 64), "ff.net.2": (64, 256), "norm1.linear": (384, 32), "norm2.linear": (384, 32)}


def random_lora(projections=PROJECTIONS, blocks=(0, 1), rank=4, seed=0):
    """Return A and B by diffusers' name of each layer of `tests.dit_models.build`'s network."""
    g = torch.Generator().manual_seed(seed)
    lora = {}
    for i in blocks:
        for name in projections:
            rows, columns = SIZES.get(name, (64, 64))
            lora[f"transformer_blocks.{i}.{name}"] = (torch.randn(rank, columns, generator=g) * 0.2,
                                                      torch.randn(rows, rank, generator=g) * 0.2)
    return lora


def deltas(lora, strength):
    """Return what a LoRA adds to the weights of this project's layers, by plain formulas."""
    added = {}
    for i in sorted({int(layer.split(".")[1]) for layer in lora}):
        def update(name, i=i):
            a, b = lora.get(f"transformer_blocks.{i}.{name}", (None, None))
            return None if a is None else strength * b @ a
        block, qkv = f"transformer.layers.{i}.", [update(name) for name in PROJECTIONS[:3]]
        if any(part is not None for part in qkv):
            added[block + "attention.query_key_value"] = torch.cat([torch.zeros(64, 64) if part is None else part
                                                                    for part in qkv])
        for ours, theirs in (("attention.dense", PROJECTIONS[3]), ("mlp.dense_h_to_4h", LAYERS[0]),
                             ("mlp.dense_4h_to_h", LAYERS[1])):
            if update(theirs) is not None:
                added[block + ours] = update(theirs)
        attention, mlp = update(LAYERS[2]), update(LAYERS[3])
        if attention is not None:
            # diffusers: shift, scale, gate of video, then of text; here attention and MLP of video, then of text
            added[f"mixins.adaln_layer.adaLN_modulations.{i}.1"] = torch.cat(
                [attention[:192], mlp[:192], attention[192:], mlp[192:]])
    return added


def named(lora, template, down="lora_A.weight", up="lora_B.weight"):
    """Return tensors by name; the template has {} for the layer."""
    tensors = {}
    for layer, (a, b) in lora.items():
        stem = template.format(layer)
        tensors |= {f"{stem}.{down}": a, f"{stem}.{up}": b}
    return tensors


def kohya(lora, alpha, prefix="lora_unet_"):
    tensors = {}
    for layer, (a, b) in lora.items():
        stem = prefix + layer.replace(".", "_")
        tensors |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b, f"{stem}.alpha": torch.tensor(alpha)}
    return tensors


def with_alpha(tensors, alpha, suffix):
    return tensors | {name.removesuffix(suffix) + ".alpha": torch.tensor(alpha)
                      for name in tensors if name.endswith(suffix)}


def own(lora, prefix="model.diffusion_model."):
    """Return this project's and the release's layout of checkpoints."""
    tensors = {}
    for layer, (a, b) in lora.items():
        _, i, projection = layer.split(".", 2)
        kind = "dense" if "to_out" in projection else "query_key_value"
        part = 0 if kind == "dense" else PROJECTIONS.index(projection)
        stem = f"{prefix}transformer.layers.{i}.attention.{kind}"
        tensors |= {f"{stem}.matrix_A.{part}": a, f"{stem}.matrix_B.{part}": b}
    return tensors


def fused(lora, prefix=""):
    """Return the release's layers with one A for query, key and value; all of a block's A must be equal."""
    tensors = {}
    for i in sorted({layer.split(".")[1] for layer in lora}):
        q, k, v, out = (lora[f"transformer_blocks.{i}.{name}"] for name in PROJECTIONS)
        stem = f"{prefix}transformer.layers.{i}.attention."
        tensors |= {f"{stem}query_key_value.lora_A.weight": q[0], f"{stem}dense.lora_A.weight": out[0],
                    f"{stem}query_key_value.lora_B.weight": torch.cat([q[1], k[1], v[1]]),
                    f"{stem}dense.lora_B.weight": out[1]}
    return tensors


def metadata_of(**config):
    return {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in config.items()})}


def write(path: Path, tensors, metadata=None):
    """Write a file as its ending says, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    else:
        torch.save(dict(tensors), path)
    return path


def peft_folder(folder: Path, tensors, file="adapter_model.safetensors", **config):
    """Write a folder as PEFT does, and return it."""
    write(folder / file, tensors)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, **config}))
    return folder


def every_spelling(folder: Path, lora, alpha):
    """Write the LoRA in each spelling, and return the paths by the spelling's name."""
    files = {
        "diffusers": (named(lora, "transformer.{}"), metadata_of(r=4, lora_alpha=alpha)),
        "diffusers, older": (with_alpha(named(lora, "transformer.{}", "lora.down.weight", "lora.up.weight"), alpha,
                                        ".lora.down.weight"), None),
        "linear layers": (with_alpha(named(lora, "transformer.{}", "lora_linear_layer.down.weight",
                                           "lora_linear_layer.up.weight"), alpha, ".lora_linear_layer.up.weight"),
                          None),
        "adapter": (named(lora, "base_model.model.{}", "lora_A.default.weight", "lora_B.default.weight"),
                    metadata_of(r=4, lora_alpha=alpha)),
        "ComfyUI": (with_alpha(named(lora, "diffusion_model.{}"), alpha, ".lora_A.weight"), None),
        "ComfyUI, downs": (with_alpha(named(lora, "model.diffusion_model.{}", "lora_down.weight", "lora_up.weight"),
                                      alpha, ".lora_down.weight"), None),
        "stacked": (named(lora, "base_model.model.transformer.{}"), metadata_of(r=4, lora_alpha=alpha)),
        "compiled": (named(lora, "module._orig_mod.{}"), metadata_of(lora_alpha=alpha)),
        "no prefix": (named(lora, "{}"), metadata_of(r=4, lora_alpha=alpha)),
        "kohya": (kohya(lora, alpha), None),
        "kohya, twice underscored": (kohya(lora, alpha, "lora_unet__"), None),
        "kohya, by metadata": ({k: v for k, v in kohya(lora, alpha).items() if "alpha" not in k},
                               {"ss_network_alpha": str(alpha), "ss_network_dim": "4"}),
        "rank-stabilized": (named(lora, "transformer.{}"), metadata_of(r=4, lora_alpha=alpha / 2, use_rslora=True)),
    }
    paths = {name: write(folder / f"{name}.safetensors", *content) for name, content in files.items()}
    paths["pickled"] = write(folder / "pickled.pt", kohya(lora, alpha))
    paths["numbers"] = write(folder / "numbers.bin", {k: v.item() if v.dim() == 0 else v
                                                      for k, v in kohya(lora, alpha).items()})
    paths["own"] = write(folder / "own.pt", {"module": own(lora), "lora": {"lora_alpha": alpha}})
    plain = named(lora, "base_model.model.{}")
    paths["PEFT"] = peft_folder(folder / "peft", plain, lora_alpha=alpha)
    paths["PEFT, pickled"] = peft_folder(folder / "peft_bin", plain, "adapter_model.bin", lora_alpha=alpha)
    return paths
