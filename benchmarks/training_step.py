"""Time and memory of a training step of the transformer: beside diffusers, in bfloat16, and with layers computed again.

    python -m benchmarks.training_step                          # on a CPU: minutes
    python -m benchmarks.training_step --size tiny --clips 2 --repeats 1 --pairs "bfloat16 / float32"

Both of a pair start from the same random weights and see the same latents, text and noise levels. Their steps, taken in
turns, are those of train_video.py: forward and backward pass and AdamW in DeepSpeed, with float32 copies of bfloat16
weights. If the losses of the timed steps differ by more than 1e-5 (float32), nothing is reported. Tensors are the most
bytes that a forward and a backward pass need at a time beside the weights, gradients included, for this project beside
what train_video.py --plan counts for them; resident is the rise of the process's memory, with the gaps between blocks
that malloc keeps. Needs requirements-test.txt. --save keeps the tables under docs/benchmarks/.
"""
import argparse
import gc
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch
from torch import Tensor, nn

from benchmarks.command_line import count
from benchmarks.markdown import table
from benchmarks.memory_measure import peak_memory, tensor_peak
from benchmarks.random_models import SIZES, Size, our_network
from benchmarks.setting import Setting
from benchmarks.speed_measure import CLOCKS, hardware, show, timed
from common.console import run
from common.errors import UserError
from configuration.settings import resolve_device
from configuration.targets import instantiate_from_config
from diffusion_video import freeze
from dry_run.meter import measure_training
from parallel import launch
from training.optimization import start_deepspeed

MEMORY_COLUMNS = ("tensors", "planned", "planned / tensors", "resident")
COLUMNS = ("", "seconds of a step", *MEMORY_COLUMNS)
LORA = {"target": "sat.model.finetune.lora2.LoraMixin", "params": {"r": 32}}
LOSS_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.1}


class LossesDiffer(UserError):
    """The user error for two trainings that are compared in speed and have different losses."""


@dataclass(frozen=True)
class Side:
    """A transformer in training: its dtype, and whether layers are computed again, it is diffusers' own, or a LoRA
    alone is trained."""

    dtype: torch.dtype = torch.float32
    again: bool = False
    diffusers: bool = False
    lora: bool = False

    def model(self, size: Size) -> dict:
        """Return the size's `model` section with this side's activation checkpointing and LoRA."""
        model = size.model()
        params = model["network_config"]["params"]
        params["transformer_args"]["checkpoint_activations"] = self.again
        if self.lora:
            params["modules"]["lora_config"] = LORA
        return model

    def training(self, network: nn.Module) -> "Training":
        """Return a transformer of this project with its loss."""
        found = Training(network, lambda x, text, times: network(x, times, text))
        freeze(network.named_parameters(), ["all"] if self.lora else [])
        return found

    def built(self, setting: Setting) -> "Training":
        """Return the transformer with its loss."""
        model = self.model(setting.size)
        ours = our_network(model, setting.device, self.dtype)
        if not self.diffusers:
            return self.training(ours)
        from benchmarks.speed_models import rotary, their_network
        theirs, tables = their_network(model, ours), rotary(ours, setting.size, setting.device)
        return Training(theirs, lambda x, text, times: theirs(
            x, text, times, image_rotary_emb=tables, return_dict=False)[0])

    def planned(self, size: Size, clips: int, device: torch.device) -> int:
        """Return the bytes that a plan counts for a forward and a backward pass of this project's transformer."""
        with torch.device("meta"):
            network = instantiate_from_config(self.model(size)["network_config"]).to(self.dtype).train()
        batch = drawn(Setting(size, torch.device("meta"), self.dtype), clips)
        return measure_training(partial(self.training(network), batch), network, device)[1]


class Training(nn.Module):
    """A transformer with its training loss, the mean square error of its output, as DeepSpeed takes it."""

    def __init__(self, network: nn.Module, predict: Callable[[Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.network, self.predict = network.train().requires_grad_(True), predict

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        out = self.predict(batch["latents"], batch["text"], batch["times"])
        return (out.float() - batch["target"]).square().mean()


SIDES: Mapping[str, Side] = {
    "float32": Side(), "bfloat16": Side(torch.bfloat16), "diffusers": Side(diffusers=True),
    "diffusers, bfloat16": Side(torch.bfloat16, diffusers=True), "layers computed again": Side(again=True)}
PAIRS: Mapping[str, tuple[str, str]] = {" / ".join(pair): pair for pair in (
    ("float32", "diffusers"), ("bfloat16", "float32"), ("bfloat16", "diffusers, bfloat16"),
    ("layers computed again", "float32"))}


def drawn(setting: Setting, clips: int) -> dict[str, Tensor]:
    """Return a batch of as many clips: noisy latents, text embeddings, timesteps, and what is to be predicted."""
    return {"latents": setting.noise(clips, *setting.size.latent), "text": setting.text(clips),
            "times": torch.linspace(100.0, 900.0, clips).to(setting.device),
            "target": setting.noise(clips, *setting.size.latent, seed=3).float()}


@dataclass(frozen=True)
class Memory:
    """The bytes of a forward and a backward pass: of its tensors, and by which the process's memory rises."""

    tensors: int
    resident: int

    @classmethod
    def of(cls, training: Training, batch: Mapping[str, Tensor], device: torch.device) -> "Memory":
        """Measure two passes after one that loads code of kernels and measures the processor."""
        found = []
        for measure in (lambda run, device: run(), tensor_peak, peak_memory):
            found.append(measure(lambda: training(batch).backward(), device))
            training.zero_grad(set_to_none=True)
        return cls(*found[1:])

    def cells(self, planned: int | None) -> list[str]:
        """Return the cells of MEMORY_COLUMNS; `planned` is None for what no plan counts."""
        plan = ["", ""] if planned is None else [_mib(planned), f"{planned / self.tensors:.2f}"]
        return [_mib(self.tensors), *plan, _mib(self.resident)]


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


class Steps:
    """The training steps of one side: seconds, losses, and the memory of two forward and backward passes before."""

    def __init__(self, name: str, size: Size, clips: int, device: torch.device):
        self.side = SIDES[name]
        setting = Setting(size, device, self.side.dtype)
        self.batch, self.device = drawn(setting, clips), device
        training = self.side.built(setting)
        self.memory = Memory.of(training, self.batch, device)
        self.engine = start_deepspeed(training, {
            "train_micro_batch_size_per_gpu": clips, "gradient_accumulation_steps": 1,
            "bf16": {"enabled": self.side.dtype == torch.bfloat16},
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}})
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def take(self, clock: str) -> None:
        """Take one step."""
        spent, loss = timed(self._step, self.device, CLOCKS[clock])
        self.seconds.append(spent)
        self.losses.append(float(loss))

    def _step(self) -> Tensor:
        loss = self.engine(self.batch)
        self.engine.backward(loss)
        self.engine.step()
        return loss.detach()

    def row(self, name: str, planned: int | None) -> list[str]:
        """Return a row of the table, as COLUMNS."""
        spent = self.seconds[1:]  # the first step warms up
        return [name, f"{statistics.median(spent):.3g} ({min(spent):.3g} to {max(spent):.3g})",
                *self.memory.cells(planned)]


def compared(pair: str, options: argparse.Namespace, device: torch.device) -> str:
    """Return the table of a pair and its ratios. Raises LossesDiffer."""
    size = SIZES[options.size]
    both = {name: Steps(name, size, options.clips, device) for name in PAIRS[pair]}
    for turn in range(options.repeats + 1):
        for name in list(both) if turn % 2 == 0 else list(both)[::-1]:
            both[name].take(options.clock)
    one, other = both.values()
    difference = max(abs(a - b) / b for a, b in zip(one.losses, other.losses, strict=True))
    limit = max(LOSS_TOLERANCE[side.side.dtype] for side in both.values())
    if not difference <= limit:  # also true for NaN
        raise LossesDiffer(f"the losses of {pair} differ by {difference:.1e}, more than {limit:g}; nothing is reported")
    rows = [steps.row(name, None if steps.side.diffusers else steps.side.planned(size, options.clips, device))
            for name, steps in both.items()]
    ratio = statistics.median(a / b for a, b in zip(one.seconds[1:], other.seconds[1:], strict=True))
    tensors = one.memory.tensors / other.memory.tensors
    return (f"{table(COLUMNS, rows)}\n\n{pair}: {ratio:.2f} of the time, {tensors:.2f} of the tensors' memory; "
            f"losses differ by {difference:.1e} at most, after {options.repeats + 1} steps\n")


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="model size (default: %(default)s)")
    parser.add_argument("--device", help="cpu or an accelerator (default: an accelerator if there is one)")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="what to compare (default: all)")
    parser.add_argument("--clips", type=count, default=2, help="clips of a step (default: %(default)s)")
    parser.add_argument("--repeats", type=count, default=3, help="timed steps of each side (default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall",
                        help="cpu: CPU time of this process, for a machine that others use (default: %(default)s)")
    parser.add_argument("--save", action="store_true", help="keep the tables as a dated note")
    options = parser.parse_args(argv)
    options.words = sys.argv[1:] if argv is None else list(argv)
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = read_options(argv)
    told = []
    with launch.launched(resolve_device(options.device), deepspeed=True) as device:
        for pair in options.pairs:
            told.append(compared(pair, options, device))
            gc.collect()
        text = (f"# A training step, {date.today()}\n\n`python -m benchmarks.training_step {' '.join(options.words)}`"
                f"\n\n{options.size}, {options.clips} clip(s); {hardware(device)}; Python {platform.python_version()}, "
                f"torch {torch.__version__}.\n\n" + "\n".join(told))
    show(text, f"training_step_{options.size}", options.save)


if __name__ == "__main__":
    sys.exit(run(main))
