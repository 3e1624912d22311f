"""Tests of several processes that share the prompts of one run."""
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from arguments import get_args
from common.errors import ConfigError
from common.files import REPOSITORY, sole_use
from configuration.targets import instantiate_from_config
from engine.process_checks import check_sequence_parallel, check_shared, merge_size_keys
from media.records import LATENTS, RECORD, load_latents
from sample_video import main, run_processes

pytestmark = pytest.mark.slow

SCRIPT = str(REPOSITORY / "sample_video.py")
GUIDER = "model.sampler_config.params.guider_config"
WEAK = (GUIDER + "={target: sgm.guiders.Autoguidance, params: {ckpt_path: x, "
        "network_config: {target: dit_video_concat.DiffusionTransformer, params: {num_attention_heads: 3}}}}")
SHARED = str(REPOSITORY / "configs" / "inference.yaml")


def launch(words, processes=2):
    """Start processes as torchrun would, which ends all when the first fails; return (exit code, standard error)."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = [subprocess.Popen([sys.executable, SCRIPT, *words], stderr=subprocess.PIPE, text=True, env={
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(torch.get_num_threads())}) for rank in range(processes)]
    try:
        said = [started[0].communicate(timeout=300)[1]]
        if started[0].returncode != 0:
            for process in started[1:]:
                process.kill()
        said += [process.communicate(timeout=300)[1] for process in started[1:]]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


@pytest.fixture
def words(small_model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\na green triangle\n")
    return ["--base", str(small_model / "t2v.yaml"), SHARED, "--input-file", str(tmp_path / "prompts.txt"),
            "--seed", "3"]


def videos(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.mp4")}


def test_each_prompt_is_made_once_and_as_by_one_process(words, tmp_path):
    assert main([*words, "--output-dir", str(tmp_path / "one")]) == 0
    (first, told), (second, quiet) = launch([*words, "--output-dir", str(tmp_path / "two")])
    assert (first, second) == (0, 0), told + quiet
    assert videos(tmp_path / "two") == videos(tmp_path / "one") and len(videos(tmp_path / "one")) == 3
    assert "3 video(s)" in told and "video(s)" not in quiet and "step" not in quiet
    made = [line for line in told.splitlines() if line.startswith(str(tmp_path / "two"))]
    assert len(made) == 2, "the first and the third; the other process made the second"


def test_a_mistake_is_told_once(words, tmp_path):
    (first, told), (_, quiet) = launch([*words, "--input-type", "cli"])
    assert first == 2 and quiet in ("", told)  # the same line again if the first takes seconds to end
    assert told.startswith("error: args.input_type is cli") and told.count("\n") == 1
    with sole_use(tmp_path):
        (first, told), (_, quiet) = launch([*words, "--output-dir", str(tmp_path)])
    assert first == 2 and quiet.strip() == "" and told.count("\n") == 1
    assert told.startswith(f"error: folder {tmp_path} is in use by another run")


def test_two_processes_decode_one_video_together(words, tmp_path):
    assert main([*words, "--output-dir", str(tmp_path / "one")]) == 0
    (first, told), (second, quiet) = launch([*words, "model.first_stage_config.params.cp_size=2",
                                             "--output-dir", str(tmp_path / "two")])
    assert (first, second) == (0, 0), told + quiet
    assert videos(tmp_path / "two") == videos(tmp_path / "one")
    assert len([line for line in told.splitlines() if line.startswith(str(tmp_path / "two"))]) == 3


def two_heads(small_model, folder):
    """The small model with two attention heads, one for each of two processes, and other weights of its sizes."""
    config = OmegaConf.load(small_model / "t2v.yaml")
    network = config.model.network_config
    network.params.num_attention_heads = 2
    network.params.modules.pos_embed_config.params.hidden_size_head = 32
    torch.manual_seed(4)
    built = instantiate_from_config(network)
    for name in ("weak.pt", "two_heads.pt"):
        for parameter in built.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        torch.save(built.state_dict(), folder / name)
    config.args.load = str(folder / "two_heads.pt")
    OmegaConf.save(config, folder / "two_heads.yaml")
    return ["--base", str(folder / "two_heads.yaml"), SHARED, "--seed", "3", "--only-save-latents"]


def latents(folder):
    return {str(path.relative_to(folder)): load_latents(path)[0] for path in folder.rglob(LATENTS)}


@pytest.mark.parametrize("shared, apart, also", [
    ("model.network_config.params.transformer_args.model_parallel_size=2", 1e-5,
     ["--num-frames", "33", "--long-video", "riflex",
      f"{GUIDER}={{target: sgm.guiders.Autoguidance, params: {{scale: 3, ckpt_path: WEAK}}}}"]),
    ("args.guidance_parallel_size=2", 1e-4, [
        f"{GUIDER}={{target: sgm.guiders.SpatioTemporalSkipGuidance, params: {{scale: 3, layers: [1], cfg_scale: 2}}}}",
        "model.step_cache_config={target: network.step_cache.TeaCache, params: {threshold: 1}}"]),
    ("args.sequence_parallel_size=2", 1e-4, ["--num-frames", "33", "model.windows_below=2.6"])])
def test_two_processes_share_one_transformer(small_model, words, tmp_path, shared, apart, also):
    words = [*two_heads(small_model, tmp_path), *words[words.index("--input-file"):],
             *(word.replace("WEAK", str(tmp_path / "weak.pt")) for word in also)]
    assert main([*words, "--output-dir", str(tmp_path / "one")]) == 0
    (first, told), (second, quiet) = launch([*words, shared, "--output-dir", str(tmp_path / "two")])
    assert (first, second) == (0, 0), told + quiet
    alone, together = latents(tmp_path / "one"), latents(tmp_path / "two")
    assert len(alone) == 3
    torch.testing.assert_close(together, alone, atol=apart, rtol=0)
    assert len([line for line in told.splitlines() if line.startswith(str(tmp_path / "two"))]) == 3
    assert "video(s)" not in quiet
    one, two = ({str(path.relative_to(tmp_path / name)): json.loads(path.read_text())
                 for path in (tmp_path / name).rglob(RECORD)} for name in ("one", "two"))
    assert one.keys() == two.keys() and all(record.get("passes_skipped") == one[name].get("passes_skipped")
                                            for name, record in two.items())
    assert all(OmegaConf.select(OmegaConf.create(record["config"]), shared.removesuffix("=2")) == 2
               for record in two.values())


@pytest.mark.parametrize("changes, says", [
    (("args.model_parallel_size=2",),
     "args.model_parallel_size is 2, which does not divide the transformer's 1 attention heads"),
    (("model.network_config.params.transformer_args.model_parallel_size=two",), "is 'two'; it must be a whole number"),
    (("args.model_parallel_size=2", "model.network_config.params.transformer_args.model_parallel_size=4"),
     "set it once"),
    (("args.model_parallel_size=2", "model.network_config.params.num_attention_heads=2"),
     "model_parallel_size 2 does not divide the 1 process"),
    (("args.model_parallel_size=2", "model.network_config.params.num_attention_heads=2", "args.load_lora=x"),
     "args.load_lora does not work with args.model_parallel_size above 1"),
    (("args.sequence_parallel_size=2",), "does not divide the 1 attention heads"),
    (("args.guidance_parallel_size=2",), "guidance_parallel_size 2 does not divide the 1 process"),
    (("args.guidance_parallel_size=0",), "args.guidance_parallel_size is 0; it must be a whole number above 0"),
    (("args.guidance_parallel_size=2", "args.model_parallel_size=2",
      "model.network_config.params.num_attention_heads=2"), "guidance_parallel_size above 1; set it to 1"),
    (("args.sequence_parallel_size=2", "model.network_config.params.num_attention_heads=2", WEAK),
     "args.sequence_parallel_size 2 does not divide the 3 attention heads of the guider's weaker transformer"),
    (("args.model_parallel_size=2", "model.network_config.params.num_attention_heads=2", WEAK),
     "does not divide the guider's weaker transformer's 3 attention heads"),
    (("args.sequence_parallel_size=2", "model.compile_model=true"), "leave it out"),
    (("args.sequence_parallel_size=2", "model.network_config.params.num_attention_heads=2",
      "model.step_cache_config={target: step_cache.TeaCache, params: {threshold: 1}}"), "no step cache but")])
def test_a_transformer_that_cannot_be_shared_is_told(changes, says, words):
    with pytest.raises(ConfigError, match=says):
        args = get_args([*words, *changes])
        merge_size_keys(args)
        check_shared(args.run, args.config)
        check_sequence_parallel(args.run, args.sampling, args.config)
        with run_processes(args):
            pass
