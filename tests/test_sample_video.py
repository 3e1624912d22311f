"""Tests of the whole sampling run on a small random model, and of every user error in it."""
import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from common.files import LOCK, REPOSITORY
from engine import checks
from inference.filmstrip import MARGIN
from sample_video import main

pytestmark = pytest.mark.slow

SHARED = str(REPOSITORY / "configs" / "inference.yaml")


@pytest.fixture
def run(small_model, tmp_path, capfd):
    """A function that runs the script with a prompt file; returns exit code, standard error and output folder."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle moves left\n# comment\n../a/../blue square\n")

    def call(*words, model="t2v", file=prompts):
        out = tmp_path / "out"
        code = main(["--base", str(small_model / f"{model}.yaml"), SHARED, "--input-file", str(file),
                     "--output-dir", str(out), "--seed", "3", *words])
        return code, capfd.readouterr().err, out
    return call


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != LOCK)


def test_prompts_to_videos(run):
    code, _, out = run("--num-samples", "2")
    first = "0_a_red_circle_moves_left"
    assert code == 0 and files(out) == [f"{folder}/{sample}/{name}" for folder in (first, "1_a_blue_square")
                                        for sample in "01" for name in ("000000.mp4", "frames.png", "metadata.json")]
    record = json.loads((out / first / "1" / "metadata.json").read_text())
    assert record["prompt"] == "a red circle moves left"
    assert (record["seed"], record["sample"], record["frames"]) == (3, 1, 17)
    assert len(record["guidance_scale"]) == len(record["noise"]) == 3 and record["guidance_scale"][0] > 6
    assert record["passes"] == [2, 4, 5]  # the last step is unguided
    assert record["config"]["model"]["sampler_config"]["params"]["num_steps"] == 3
    assert len(record["seconds"]) == 5 and "torch" in record["versions"]
    videos = [p.read_bytes() for p in out.rglob("*.mp4")]
    assert len(set(videos)) == 4


def test_a_video_depends_on_its_own_prompt_and_index_alone(run, tmp_path):
    _, _, out = run()
    one = (out / "0_a_red_circle_moves_left" / "0" / "000000.mp4").read_bytes()
    (tmp_path / "alone.txt").write_text("a red circle moves left")
    run(file=tmp_path / "alone.txt")
    assert (out / "0_a_red_circle_moves_left" / "0" / "000000.mp4").read_bytes() == one


def test_saved_latents_decode_to_the_same_video(run, tmp_path):
    _, _, out = run()
    name = "0_a_red_circle_moves_left/0"
    video = (out / name / "000000.mp4").read_bytes()
    code, _, _ = run("--only-save-latents", "--output-dir", str(tmp_path / "latents"))
    assert code == 0 and files(tmp_path / "latents" / name) == ["latents.safetensors", "metadata.json"]
    code, _, _ = run("--input-type", "latents", "--output-dir", str(tmp_path / "later"), file=tmp_path / "latents")
    assert code == 0 and (tmp_path / "later" / name / "000000.mp4").read_bytes() == video
    assert json.loads((tmp_path / "later" / name / "metadata.json").read_text())["seed"] == 3


def test_resume_makes_only_what_is_missing(run):
    _, _, out = run()
    done, missing = (out / name / "0" / "000000.mp4" for name in ("0_a_red_circle_moves_left", "1_a_blue_square"))
    missing.unlink()
    before = done.stat().st_mtime_ns
    assert run("--resume")[0] == 0 and missing.is_file() and done.stat().st_mtime_ns == before
    assert run("--resume")[0] == 0
    assert run()[0] == 0 and done.stat().st_mtime_ns > before


def test_a_negative_prompt_changes_the_video(run):
    _, _, out = run()
    before = (out / "1_a_blue_square" / "0" / "000000.mp4").read_bytes()
    run("--negative-prompt", "gray background")
    assert (out / "1_a_blue_square" / "0" / "000000.mp4").read_bytes() != before


def test_guidance_scale_one_is_one_forward_pass_a_step(run):
    code, _, out = run("--guidance-scale", "1", "--use-dynamic-cfg", "--only-save-latents")
    record = json.loads((out / "1_a_blue_square" / "0" / "metadata.json").read_text())
    assert code == 0 and record["passes"] == [1, 2, 3] and set(record["guidance_scale"]) == {1.0}


def test_what_steps_take_the_clip_to_be_stands_beside_the_video(run):
    code, _, out = run("--save-denoised-every", "2", "--batch-size", "2")
    strips = [Image.open(path) for path in sorted(out.rglob("denoised.png"))]
    assert code == 0 and len(strips) == 2
    left, step = MARGIN + 2, 32 + 2  # two rows (step 2 and the last) of six frames of 32 x 32
    assert {strip.size for strip in strips} == {(MARGIN + 2 + 6 * step, 2 + 2 * step)}
    for strip, sheet in zip(strips, sorted(out.rglob("frames.png")), strict=True):
        video = Image.open(sheet).crop((2, 2, 34, 34))  # its first frame; the last denoised estimate is the video
        assert strip.crop((left, 2 + step, left + 32, 2 + step + 32)).tobytes() == video.tobytes()
    assert strips[0].tobytes() != strips[1].tobytes()


def test_images_to_videos(run, tmp_path):
    Image.new("RGB", (50, 40), (200, 30, 30)).save(tmp_path / "red.png")
    (tmp_path / "images.txt").write_text("a circle@@red.png\n")
    code, _, out = run(model="i2v", file=tmp_path / "images.txt")
    record = json.loads((out / "0_a_circle" / "0" / "metadata.json").read_text())
    assert code == 0 and record["image"].endswith("red.png")


def test_a_video_between_two_images(run, tmp_path):
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        Image.new("RGB", (50, 40), color).save(tmp_path / f"{name}.png")
    (tmp_path / "images.txt").write_text("a circle@@red.png@@blue.png\na circle@@red.png\n")
    code, _, out = run(model="i2v", file=tmp_path / "images.txt")
    between, alone = (json.loads((out / f"{i}_a_circle" / "0" / "metadata.json").read_text()) for i in (0, 1))
    assert code == 0 and between["last"].endswith("blue.png") and alone["last"] is None
    assert between["made_from"] != alone["made_from"]


@pytest.mark.parametrize("words, says", [
    (["args.sampling_fsp=3"], "did you mean sampling_fps?"),
    (["model.scale_facto=3"], "did you mean scale_factor?"),
    (["model.network_config.params.hiden_size=3"], "did you mean hidden_size?"),
    (["model.network_config.target=os.system"], "may not be named"),
    (["model.network_config.target=torch.load"], "may not be named"),
    (["model.network_config.target=dit_video_concat.DifusionTransformer"], "did you mean DiffusionTransformer?"),
    (["data.target=data_video.SFTDataste", "data.params={}"], "did you mean SFTDataset?"),
    (["data.prams={}"], "did you mean params?"),
    (["model.scale_factor=abc"], "model.scale_factor is 'abc'"),
    (["model.sampler_config=null"], "model.sampler_config is missing"),
    (["model.network_config.params.num_frames=null"], "num_frames is null; it must be a whole number above 0"),
    (["args.load=nowhere"], "checkpoint nowhere does not exist"),
    (["model.first_stage_config.params.ckpt_path=nowhere.pt"], "nowhere.pt does not exist"),
    (["model.conditioner_config.params.emb_models.0.params.model_dir=nowhere"], "T5 folder nowhere"),
    (["model.network_config.params.num_layers=1"], "does not fit the configuration"),
    (["--num-frames", "18"], "the nearest is 17"),
    (["args.sampling_image_size=[30,32]"], "the nearest is [32, 32]"),
    (["--output-dir", "/proc/nowhere"], "cannot be written"),
    (["--negative-prompt", "\udce9"], "args.negative_prompt is '\\udce9', which is not UTF-8 text"),
    (["--num-samples", "60000"], "more than the 100000 videos"),
    (["model.network_config.params.modules=3", "--text-embeddings", "x"], "modules is 3"),
    (["--image2video"], "leave args.image2video out"),
    (["--num-inference-steps", "0"], "0"),
    (["--guidance-scale", "0"], "scale: 0.0 must be above 0"),
    (["--guidance-scale", "-1", "--no-dynamic-cfg"], "scale: -1.0 must be above 0"),
    (["--guidance-scale", "nan"], "scale is nan; it must be a finite number"),
    (["--save-denoised-every", "0"], "args.save_denoised_every is 0"),
    (["--save-denoised-every", "1", "--only-save-latents"], "leave one out"),
])
def test_mistakes_get_one_line(run, words, says):
    code, err, _ = run(*words)
    assert code == 2 and "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ") and says in line


@pytest.mark.parametrize("key", ["compile_model=regional", "compile_first_stage=true"])
def test_compiling_without_a_compiler(run, key, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, err, out = run("model." + key)
    assert code == 2 and err.count("\n") == 1 and "no-such-compiler" in err and not out.exists()


def test_an_attention_kernel_that_the_device_has_not(run):
    code, err, out = run("model.attention_kernel=cudnn")
    assert code == 2 and err.count("\n") == 1 and "model.attention_kernel: cudnn" in err and not out.exists()


def test_graphs_that_the_device_has_not_and_those_whose_weights_would_move(run, monkeypatch):
    code, err, out = run("model.compile_model=max")
    assert code == 2 and err.count("\n") == 1 and not out.exists()
    assert "model.compile_model: max replays kernels as a graph, which cpu does not have; use true or regional" in err
    monkeypatch.setattr(checks, "has_graphs", lambda device: True)
    for words in (("--offload", "model"), ("args.model_parallel_size=2",)):
        code, err, out = run("model.compile_model=max", *words)
        assert code == 2 and err.count("\n") == 1 and words[0].strip("-").split("=")[0] in err and not out.exists()


@pytest.mark.parametrize("content, says", [
    (b"", "has no prompts"), (b"\xff\xfe\x00", "not UTF-16-LE text"), (None, "does not exist")])
def test_prompt_files_that_do_not_fit(run, tmp_path, content, says):
    path = tmp_path / "other.txt"
    if content is not None:
        path.write_bytes(content)
    code, err, _ = run(file=path)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["missing.png", "broken.png"])
def test_images_that_cannot_be_read(run, tmp_path, name):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n but no more")
    (tmp_path / "images.txt").write_text(f"a circle@@{name}\n")
    code, err, out = run(model="i2v", file=tmp_path / "images.txt")
    assert code == 2 and name in err and len(err.strip().splitlines()) == 1


def test_truncated_and_poisoned_checkpoints(run, small_model, tmp_path):
    whole = (small_model / "t2v" / "7" / "mp_rank_00_model_states.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[:-1000])
    code, err, _ = run("--load", str(tmp_path / "cut.pt"))
    assert code == 2 and "cut.pt is truncated" in err
    torch.save({"module": torch.nn.Linear}, tmp_path / "code.pt")
    code, err, _ = run("--load", str(tmp_path / "code.pt"))
    assert code == 2 and "code.pt is refused" in err


def test_as_a_program_from_elsewhere(small_model, tmp_path):
    script = [sys.executable, str(REPOSITORY / "sample_video.py")]
    mistake = subprocess.run([*script, "--base", "configs/tiny_t2v.yaml", "args.sede=3"], cwd=tmp_path,
                             capture_output=True, text=True)
    assert mistake.returncode == 2 and mistake.stdout == ""
    assert mistake.stderr == "error: command line: unknown key args.sede; did you mean seed?\n"
