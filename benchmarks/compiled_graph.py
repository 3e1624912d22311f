"""Kernels of one compiled transformer layer, and the bytes that they read and write, beside diffusers' and the least.

    python -m benchmarks.compiled_graph                 # sizes 2b, 5b and 1.5-5b in bfloat16: two minutes, no weights
    python -m benchmarks.compiled_graph --size small --dtype fp32 --save

The layer is lowered by inductor for a CPU, with tensors that have shapes and no data, so full sizes need no memory.
What cannot be fused there cannot be fused on an accelerator either. Kernels are those that do work; calls of matrix
products and attention count as one each. The least is each activation read once and written once by every product, by
attention and by what can be one kernel between them. What a fused kernel reads several times counts as often, up to the
whole tensor, as inductor counts it. Needs requirements-test.txt. --save keeps the table under docs/benchmarks/.
"""
import argparse
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from math import prod
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch
from torch import nn
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import ExternKernel, IRNode, ReinterpretView
from torch._inductor.scheduler import BaseSchedulerNode, NopKernelSchedulerNode
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.markdown import table
from benchmarks.random_models import SIZES, Size
from benchmarks.speed_measure import DTYPES, show
from common.console import run
from common.patches import parse_patch_size, patch_grid
from configuration.targets import instantiate_from_config

FULL = ("2b", "5b", "1.5-5b")
COLUMNS = ("size", "graphs", "kernels, ours", "kernels, diffusers", "GB, ours", "GB, diffusers", "GB, least",
           "ours / least", "diffusers / least")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Graph:
    """The kernels of a compiled graph, and the bytes that they read and write."""

    kernels: int
    bytes: int


def moved(node: BaseSchedulerNode, graph: GraphLowering) -> int:
    """Return the bytes that a kernel reads and writes; of a view that a call is given, its own and not its tensor's."""
    count = node.get_read_write_buffers_sizes()
    if isinstance(node.node, ExternKernel):
        names = dict.fromkeys(one.get_name() for one in node.node.inputs if isinstance(one, ReinterpretView))
        views = sum(_bytes(one) for one in node.node.inputs if isinstance(one, ReinterpretView))
        count += views - sum(_bytes(graph.get_buffer(name)) for name in names)
    return count


def _bytes(part: IRNode) -> int:
    return prod(int(side) for side in part.get_size()) * part.get_dtype().itemsize


@contextmanager
def lowered() -> Iterator[list[Graph]]:
    """Context manager that yields a list, to which every graph that inductor lowers inside is added."""
    graphs: list[Graph] = []
    codegen = GraphLowering.codegen

    def noted(self: GraphLowering, *args, **kwargs):
        result = codegen(self, *args, **kwargs)
        sizes = [moved(node, self) for node in self.scheduler.nodes if not isinstance(node, NopKernelSchedulerNode)]
        graphs.append(Graph(sum(size > 0 for size in sizes), sum(sizes)))
        return result

    GraphLowering.codegen = noted
    try:
        with config.patch(fx_graph_cache=False):
            yield graphs
    finally:
        GraphLowering.codegen = codegen


def lower_only(graph: torch.fx.GraphModule, inputs: Sequence) -> Callable:
    """Lower a graph by inductor, and run it without: the backend for tensors without data."""
    def inner(part: torch.fx.GraphModule, given: Sequence, **settings) -> Callable:
        compile_fx_inner(part, given, **settings)
        return part.forward
    return compile_fx(graph, inputs, inner_compile=inner)


def two_layers(size: Size) -> dict:
    """Return the `model` section of a size with two layers: one like all the others, and the last."""
    model = size.model()
    model["network_config"]["params"]["num_layers"] = 2
    return model


@torch.no_grad()
def our_graphs(size: Size, dtype: torch.dtype) -> list[Graph]:
    """Return the graphs of our compiled layers: that of every layer but the last, and that of the last."""
    network = _built(two_layers(size)["network_config"], dtype)
    torch.compiler.reset()
    with FakeTensorMode(allow_non_fake_inputs=True), lowered() as graphs:
        network = network.to_empty(device=CPU)
        network.compile_layers(backend=lower_only)
        network(torch.empty(2, *size.latent, dtype=dtype), torch.full((2,), 500.0),
                torch.empty(2, size.text_length, size.text_width, dtype=dtype))
    return graphs


@torch.no_grad()
def their_graphs(size: Size, dtype: torch.dtype) -> list[Graph]:
    """Return the graphs of diffusers' compiled layers."""
    from diffusers import CogVideoXTransformer3DModel

    from benchmarks.speed_models import rotary
    from tools.convert_weights import parts_of

    model = two_layers(size)
    with torch.device("meta"):
        theirs = CogVideoXTransformer3DModel.from_config(dict(parts_of(model)["transformer"].config)).to(dtype).eval()
    tables = rotary(_built(model["network_config"], dtype), size, CPU)
    torch.compiler.reset()
    with FakeTensorMode(allow_non_fake_inputs=True), lowered() as graphs:
        theirs = theirs.requires_grad_(False).to_empty(device=CPU)
        for block in theirs.transformer_blocks:
            block.compile(backend=lower_only)
        text = torch.empty(2, size.text_length, size.text_width, dtype=dtype)
        theirs(torch.empty(2, *size.latent, dtype=dtype), text, torch.full((2,), 500.0), image_rotary_emb=tables,
               return_dict=False)
    return graphs


def _built(network: Mapping, dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        return instantiate_from_config(network).to(dtype).eval().requires_grad_(False)


def least_bytes(size: Size, dtype: torch.dtype) -> int:
    """Return the bytes of a layer whose activations are read and written once by each product, by attention, and by
    each group of other operations between them: modulated norm, norm and rotation, gate and next norm, gate. GELU can
    be part of the product before it.
    """
    params = two_layers(size)["network_config"]["params"]
    width = params["hidden_size"]
    patch = parse_patch_size(params["patch_size"])
    tokens = 2 * (size.text_length + prod(patch_grid(torch.empty(1, *size.latent, device="meta"), patch)))
    weights = params.get("time_embed_dim", 512) * 12 * width + (3 + 1 + 4 + 4) * width * width
    products = (1 + 3) + (1 + 1) + (1 + 4) + (4 + 1)  # queries, keys and values; output; MLP
    others = 2 + 4 + 4 + 4 + 3  # modulated norm; norm and rotation; attention; gate and norm; gate
    return dtype.itemsize * (weights + tokens * width * (products + others))


def row(name: str, dtype: torch.dtype) -> list[str]:
    """Return a row of the table, as COLUMNS, for a layer that is not the last."""
    size = SIZES[name].as_decoded()
    ours, theirs, least = our_graphs(size, dtype), their_graphs(size, dtype), least_bytes(size, dtype)
    return [name, f"{len(ours)}", f"{ours[0].kernels}", f"{theirs[0].kernels}",
            *(f"{count / 1e9:.3g}" for count in (ours[0].bytes, theirs[0].bytes, least)),
            f"{ours[0].bytes / least:.2f}", f"{theirs[0].bytes / least:.2f}"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=FULL)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--save", action="store_true", help="keep the table as a dated note")
    options = parser.parse_args(argv)
    words = sys.argv[1:] if argv is None else list(argv)
    rows = [row(name, DTYPES[options.dtype]) for name in options.size]
    text = (f"# A compiled layer, {date.today()}\n\n`python -m benchmarks.compiled_graph {' '.join(words)}`\n\n"
            f"Lowered for a CPU ({torch.backends.cpu.get_cpu_capability()}) in {options.dtype}, batch 2; "
            f"Python {platform.python_version()}, torch {torch.__version__}.\n\n{table(COLUMNS, rows)}\n")
    show(text, f"compiled_graph_{options.dtype}", options.save)


if __name__ == "__main__":
    sys.exit(run(main))
