"""Tests of batches: one bucket each, every clip in turn, reading ahead, and timesteps spread over ranks."""
import threading
from types import SimpleNamespace

import pytest
import torch

import sgm.sigma_sampling
from configuration.targets import instantiate_from_config
from tests.random_model import TABLE, model_config
from training.data.batches import BatchOrder, ClipOrder, LiveClips


def test_one_bucket_is_the_order_of_its_clips():
    order, clips = BatchOrder([7], 2, seed=3), ClipOrder(7, seed=3)
    for number in (0, 1, 9):
        bucket, index = order.batch(number)
        assert bucket == 0 and torch.equal(index, clips.take(2 * number, 2))


def test_clips_of_every_bucket_come_equally_often_and_depend_on_the_number_alone():
    sizes, epoch = [10, 3, 6], 5 + 2 + 3
    batches = [BatchOrder(sizes, 2, seed=3).batch(number) for number in range(3 * epoch)]
    for start in range(0, 3 * epoch, epoch):
        assert [sum(bucket == b for bucket, _ in batches[start:start + epoch]) for b in range(3)] == [5, 2, 3]
    for b, size in enumerate(sizes):
        shown = torch.cat([index for bucket, index in batches if bucket == b])
        assert sorted(shown[:size].tolist()) == list(range(size))
        assert shown.bincount().max() - shown.bincount().min() <= 1
    assert len({tuple(bucket for bucket, _ in batches[start:start + epoch]) for start in (0, epoch, 2 * epoch)}) == 3
    order = BatchOrder(sizes, 2, seed=3)
    assert all(order.batch(number)[0] == batches[number][0] and torch.equal(order.batch(number)[1], batches[number][1])
               for number in (17, 3, 29))


def test_validation_takes_buckets_in_turn():
    order = BatchOrder([3, 1], 2, seed=0)
    found = [(bucket, index.tolist()) for bucket, index in map(order.in_order, range(4))]
    assert found == [(0, [0, 1]), (1, [0, 0]), (0, [2, 0]), (1, [0, 0])]


class Recorded(torch.utils.data.Dataset):
    """A dataset that records which thread asked for each item."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 6

    def __getitem__(self, number):
        self.asked.append((number, threading.current_thread().name.split("_")[0]))
        return {"mp4": torch.full((2, 3), float(number)), "txt": str(number)}


@pytest.mark.parametrize("workers, thread", [(0, "MainThread"), (2, "clips")])
def test_workers_read_ahead_what_is_announced(workers, thread):
    clips = LiveClips(Recorded(), workers)
    clips.prepare(torch.tensor([1, 4]))
    clips.prepare(torch.tensor([2, 4]))
    batch = clips.batch(torch.tensor([4, 1, 4]))
    assert batch["txt"] == ["4", "1", "4"] and batch["mp4"][:, 0, 0].tolist() == [4, 1, 4]
    clips.batch(torch.tensor([2]))
    assert {name for _, name in clips.reader.dataset.asked} == {thread}
    times = [number for number, _ in clips.reader.dataset.asked]
    assert sorted(times) == ([1, 2, 4] if workers else [1, 2, 4, 4])


def test_timesteps_spread_over_processes_lower_the_variance_of_the_loss(monkeypatch):
    config = model_config("t5", "vae")
    denoiser = instantiate_from_config(config["denoiser_config"])
    latents = 0.3 * torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    processes = 4

    def zeros(x, t, cond):
        return torch.zeros_like(x)

    def loss_of_all(loss_fn):
        losses = []
        for rank in range(processes):
            monkeypatch.setattr(sgm.sigma_sampling, "_data_rank_and_size", lambda rank=rank: (rank, processes))
            losses.append(loss_fn(zeros, denoiser, lambda batch: {}, latents, {}).mean())
        return torch.stack(losses).mean()

    variance = {}
    for spread in (True, False):
        sampler = {"target": "sgm.sigma_sampling.DiscreteSampling", "params": {
            "uniform_sampling": spread, "num_idx": 1000, "discretization_config": TABLE}}
        loss_fn = instantiate_from_config({"target": "sgm.loss.VideoDiffusionLoss",
                                           "params": {"sigma_sampler_config": sampler}})
        torch.manual_seed(1)
        losses = torch.stack([loss_of_all(loss_fn) for _ in range(200)])
        variance[spread] = SimpleNamespace(mean=losses.mean(), size=losses.var())
    assert variance[True].size < 0.3 * variance[False].size
    assert abs(variance[True].mean - variance[False].mean) < 4 * (variance[False].size / 200) ** 0.5
