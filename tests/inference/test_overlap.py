"""Tests of finishing videos in a thread while the next are sampled: same files, errors, interrupts, streams, memory."""
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from arguments import get_args
from cogvideo import load
from common.errors import ConfigError, DataError
from common.files import REPOSITORY
from configuration.model import ModelConfig
from dry_run.memory import DECODER, TOGETHER, TRANSFORMER, estimate
from inference import overlap
from inference.overlap import AtOnce, Overlapped, check_overlap, finisher
from inference.sizes import model_limits, plan_video
from sample_video import main

CPU = torch.device("cpu")
SHARED = str(REPOSITORY / "configs" / "inference.yaml")
WAYS = pytest.mark.parametrize("decodes", [False, True], ids=["saving", "decoding"])


def frames(count, log=None, fail_at=None):
    for number in range(count):
        if number == fail_at:
            raise DataError("decoding failed")
        if log is not None:
            log.append(("decoded", number, threading.current_thread() is threading.main_thread()))
        yield torch.tensor(number)


@WAYS
def test_a_video_is_finished_in_order_while_the_next_is_sampled(decodes):
    sampled, log = threading.Event(), []

    def finish(chunks):
        got = [int(chunk) for chunk in chunks]
        log.append(sampled.wait(10))  # until the next is sampled, which must not wait for this
        log.append(got)
    with Overlapped(CPU, decodes) as thread:
        thread.run(finish, frames(2))
        sampled.set()
        thread.run(finish, frames(3))
        thread.wait()
        assert log == [True, [0, 1], True, [0, 1, 2]]


@pytest.mark.parametrize("make, here", [(lambda: Overlapped(CPU, False), True), (lambda: Overlapped(CPU, True), False),
                                        (AtOnce, True)])
def test_decoding_is_in_the_thread_only_if_it_is_asked_for(make, here):
    log = []
    with make() as thread:
        thread.run(list, frames(4, log))
    assert log == [("decoded", number, here) for number in range(4)]


def full_disk(chunks):
    next(chunks)
    raise DataError("the disk is full")


@WAYS
def test_an_error_of_the_thread_is_raised_where_videos_are_sampled(decodes):
    with pytest.raises(DataError, match="the disk is full"), Overlapped(CPU, decodes) as thread:
        thread.run(full_disk, frames(100))  # more than may wait to be encoded
    with pytest.raises(DataError, match="the disk is full"), Overlapped(CPU, decodes) as thread:
        thread.run(full_disk, frames(1))
        thread.wait()
        pytest.fail("the error is raised before the next video is finished")


def test_an_error_of_the_thread_is_told_where_another_ends_the_run(caplog):
    with pytest.raises(DataError, match="sampling failed"), Overlapped(CPU, True) as thread:
        thread.run(full_disk, frames(1))
        raise DataError("sampling failed")
    assert "a video before could not be finished: the disk is full" in caplog.text


@WAYS
def test_an_error_in_sampling_waits_for_the_video_before_and_an_interrupt_does_not(decodes):
    finished, begun, go_on = [], threading.Event(), threading.Event()

    def finish(chunks):
        for chunk in chunks:
            begun.set()
            go_on.wait(10)
            finished.append(int(chunk))
        finished.append("whole")
    with pytest.raises(DataError, match="sampling failed"), Overlapped(CPU, decodes) as thread:
        thread.run(finish, frames(2))
        go_on.set()
        raise DataError("sampling failed")
    assert finished == [0, 1, "whole"]
    finished.clear()
    begun.clear()
    go_on.clear()
    with pytest.raises(KeyboardInterrupt), Overlapped(CPU, decodes) as thread:
        thread.run(finish, interrupted(begun, go_on, thread) if not decodes else frames(9))
        stop(begun, go_on, thread)
    assert finished == [0]


def stop(begun, go_on, thread):
    begun.wait(10)
    thread._stop.set()  # as leaving does, before the thread goes on
    go_on.set()
    raise KeyboardInterrupt


def interrupted(begun, go_on, thread):
    """Decode one chunk, and be interrupted in the next."""
    yield torch.tensor(0)
    stop(begun, go_on, thread)


@WAYS
def test_an_error_in_decoding_is_raised_and_the_video_is_not_finished(decodes):
    finished = []
    with pytest.raises(DataError, match="decoding failed"), Overlapped(CPU, decodes) as thread:
        thread.run(lambda chunks: finished.append(list(chunks)), frames(4, fail_at=2))
    assert not finished


def test_decoding_has_its_own_stream_which_waits_for_what_was_sampled(monkeypatch):
    log = []

    class Stream:
        def wait_event(self, event):
            log.append(("waits", event))

        def __enter__(self):
            log.append("enters")

        def __exit__(self, *raised):
            log.append("leaves")
    monkeypatch.setattr(overlap, "new_stream", lambda device: Stream())
    monkeypatch.setattr(overlap, "computing", lambda device: SimpleNamespace(record_event=lambda: "sampled"))
    with Overlapped(CPU, decodes=True) as thread:
        thread.run(lambda chunks: log.extend(int(chunk) for chunk in chunks), frames(2))
    assert log == ["enters", ("waits", "sampled"), 0, 1, "leaves"]


def asked(small_model, *words):
    return get_args(["--base", str(small_model / "t2v.yaml"), SHARED, *words])


def test_what_leaves_nothing_to_overlap_is_finished_at_once(small_model):
    def kind(*words):
        return type(finisher(asked(small_model, *words), CPU))
    assert kind() is AtOnce and kind("--overlap", "saving") is kind("--overlap", "decoding") is Overlapped
    assert kind("--overlap", "saving", "--only-save-latents") is AtOnce
    assert kind("--overlap", "saving", "--save-denoised-every", "1") is AtOnce
    assert kind("--overlap", "decoding", "--save-denoised-every", "1") is Overlapped
    assert kind("--overlap", "saving", "args.guidance_parallel_size=2") is AtOnce


@pytest.mark.parametrize("words, says", [
    (("--offload", "model"), "args.offload"), (("model.compile_model=max",), "compile_model: max"),
    (("args.sequence_parallel_size=2",), "processes that make one video together")])
def test_decoding_that_cannot_run_beside_sampling_is_refused(small_model, words, says):
    check_overlap(asked(small_model, "--overlap", "saving", *words))
    with pytest.raises(ConfigError, match=f"overlap: decoding does not work with .*{says}.*; use saving, or leave"):
        check_overlap(asked(small_model, "--overlap", "decoding", *words))


def test_the_plan_has_what_computes_at_the_same_time(small_model):
    def phases(*words):
        args = asked(small_model, *words)
        model = ModelConfig.read(args.model_config)
        plan = plan_video(model_limits(args.model_config), args.sampling)
        return plan, estimate(args, model, plan, 2)
    plan, alone = phases()
    pixels = 2 * 3 * plan.frames * plan.height * plan.width
    latents_alone = phases("--overlap", "decoding", "--only-save-latents")[1].phases
    assert TOGETHER not in alone.phases and TOGETHER not in latents_alone
    saving, decoding = (phases("--overlap", how)[1].phases for how in ("saving", "decoding"))
    assert saving[TOGETHER] == alone.phases[TRANSFORMER] + pixels
    assert decoding[TOGETHER] == saving[TOGETHER] + alone.costs[DECODER].activations
    assert {name: size for name, size in decoding.items() if name != TOGETHER} == alone.phases


@pytest.mark.slow
def test_a_pipeline_has_the_same_results_one_batch_behind(small_model):
    def made(**given):
        steps, seen = [], []
        pipe = load(small_model / "t2v.yaml", num_frames=9, **given)
        for result in pipe.results(["a red circle", "a blue square", "a green circle"], progress=False,
                                   callback=lambda step: steps.append(step.index)):
            seen.append((len(steps), result))
        return seen
    plain, overlapped = made(), made(overlap="decoding")
    assert [count for count, _ in plain] == [3, 6, 9] and [count for count, _ in overlapped] == [6, 9, 9]
    for (_, one), (_, other) in zip(plain, overlapped, strict=True):
        assert one.prompt == other.prompt and np.array_equal(one.video, other.video)


@pytest.mark.slow
def test_a_run_makes_the_same_files_and_resumes_after_an_error(small_model, tmp_path, monkeypatch, capfd):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\na green circle\n")

    def run(name, *words):
        return main(["--base", str(small_model / "t2v.yaml"), SHARED, "--input-file", str(prompts), "--num-frames", "9",
                     "--output-dir", str(tmp_path / name), "--batch-size", "2", *words])

    def made(name):
        folder = tmp_path / name
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
                if path.suffix in (".mp4", ".png")}
    assert run("plain") == 0
    expected = made("plain")
    assert len(expected) == 6
    for how in ("saving", "decoding"):
        assert run(how, "--overlap", how) == 0 and made(how) == expected
    with full_after(1, monkeypatch):
        assert run("again", "--overlap", "decoding") == 2
    assert capfd.readouterr().err.splitlines()[-1] == "error: the disk is full"
    assert len(made("again")) == 2, "the video before is whole, and nothing of the others is there"
    assert not [path for path in (tmp_path / "again").rglob("*") if "partial" in path.name]
    assert run("again", "--overlap", "decoding", "--resume") == 0
    assert made("again").keys() == expected.keys()  # a batch of other videos differs by rounding


@contextmanager
def full_after(count, monkeypatch):
    """Context manager in which the disk is full after that many videos."""
    import sample_video
    write, written = sample_video.write_last, []

    def limited(*given, **named):
        if len(written) == count:
            raise DataError("the disk is full")
        written.append(given)
        return write(*given, **named)
    with monkeypatch.context() as patched:
        patched.setattr(sample_video, "write_last", limited)
        yield
