"""The circumstances of a video beside what it is made from: code, machine, processes, and the batch it was sampled in.

They change a video by rounding at most, other code and libraries aside. Its record keeps them, and says of a video made
again which of them differ.
"""
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from common.files import REPOSITORY
from common.machine import processor
from common.ranks import world_size
from common.source_code import commit, has_changes, source_digest
from configuration.settings import Arguments
from inference.jobs import Job
from parallel.groups import GroupSizes
from weights.identity import identity


def circumstances(args: Arguments, device: torch.device) -> dict[str, Any]:
    """Return code and machine: `commit` is None without git, and `changes` True if the code differs from it."""
    cpu = {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    stored = args.sampling.text_embeddings
    return {"commit": commit(), "changes": commit() is not None and has_changes(), "source": source_digest(),
            "repository": str(REPOSITORY), "device": device.type, "processor": processor(device), **cpu,
            "processes": {"all": world_size(), **asdict(group_sizes(args))},
            "text_embeddings": None if stored is None else identity(stored)}


def group_sizes(args: Arguments) -> GroupSizes:
    """Return how many processes share one model, in each of the ways that there are."""
    first_stage = args.model_config.first_stage_config.get("params") or {}
    return GroupSizes(model=args.run.model_parallel_size, context=first_stage.get("cp_size", 1),
                      sequence=args.sampling.sequence_parallel_size, guidance=args.sampling.guidance_parallel_size)


def batch_entry(batch: Sequence[Job], row: int) -> dict[str, Any]:
    """Return the videos that were sampled together, and which row of them this one was."""
    return {"row": row, "videos": [_row_entry(job) for job in batch]}


def _row_entry(job: Job) -> dict[str, Any]:
    """Return what tells a video from the others of its run, with the files that it starts from or follows."""
    prompt = job.prompt
    return {"prompt": prompt.text, "prompt_index": prompt.index, "sample": job.sample, "image": prompt.image,
            "last": prompt.last, "clip": prompt.clip, "control": prompt.control, "contents": dict(job.contents)}
