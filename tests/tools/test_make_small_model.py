"""Tests of the jobs that make the small models, and of how they are continued; nothing is trained."""
import subprocess
import sys
from pathlib import Path

import pytest

import train_vae
import train_video
from arguments import get_args
from common.errors import ConfigError
from tools import make_small_model, small_model_recipe
from tools.small_model_recipe import ALSO, Choices, jobs_of, record_of

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "made"


def trainings(choices):
    return {job.name: job for job in jobs_of(choices) if job.steps}


def test_a_job_comes_after_those_whose_results_it_reads(folder):
    made = set()
    for job in jobs_of(Choices(folder, also=ALSO)):
        args = job.config.get("args", {})
        read = [*args.get("train_data", []), *args.get("valid_data", []), args.get("load")]
        for path in filter(None, read):
            assert any(Path(path).is_relative_to(result) for result in made), f"{job.name} reads {path} too early"
        if job.name.startswith("export"):
            assert Path(job.command[1]) in made
        made.add(job.result)


def test_nothing_is_written_outside_the_folder(folder):
    for job in jobs_of(Choices(folder, also=ALSO)):
        assert job.result.is_relative_to(folder)
        for key in ("save", "latent_cache"):
            assert Path(job.config.get("args", {}).get(key, folder)).is_relative_to(folder)


@pytest.mark.slow
@pytest.mark.parametrize("quick", [False, True])
def test_every_stage_is_a_configuration_that_training_accepts(folder, quick):
    for job in trainings(Choices(folder, quick, also=ALSO)).values():
        for key in ("train_data", "valid_data"):
            for path in job.config["args"][key]:
                (Path(path) / "videos").mkdir(parents=True, exist_ok=True)
        for part, suffix in (("vae", "3d-vae.pt"), ("t5", "config.json"), ("t5_numbers", "config.json")):
            (folder / "tiny" / part).mkdir(parents=True, exist_ok=True)
            (folder / "tiny" / part / suffix).touch()
        make_small_model.write_config(folder / "recipe" / f"{job.name}.yaml", job.config)
        words = job.command[job.command.index("--base"):]
        args = get_args([*words, *job.extra, "args.load=null"])
        if "train_vae.py" in job.command:
            train_vae.check_settings(args)
        else:
            train_video.check_deepspeed(args.deepspeed_config, 1)
            assert args.training.train_iters == job.steps
            end = "_numbers" if job.name.startswith("numbers") else ""
            model = args.model_config
            assert model.first_stage_config.params.ckpt_path == str(folder / "tiny/vae/3d-vae.pt")
            assert model.conditioner_config.params.emb_models[0].params.model_dir == str(folder / f"tiny/t5{end}")


def test_runs_that_share_stored_first_frames_have_one_seed(folder):
    jobs = trainings(Choices(folder))
    assert {job.config["args"]["seed"] for name, job in jobs.items() if name.startswith("i2v")} == {0}


def test_processes_share_the_clips_of_a_step(folder):
    one, two = trainings(Choices(folder)), trainings(Choices(folder, processes=2))
    assert one["t2v_images"].extra == ("deepspeed.train_micro_batch_size_per_gpu=64",)
    assert two["t2v_images"].extra == ("deepspeed.train_micro_batch_size_per_gpu=32",)
    assert two["t2v_images"].command[:2] == ("-m", "torch.distributed.run")
    assert two["vae_frames"] == one["vae_frames"], "the autoencoder is trained by one process"
    assert record_of(two["i2v_clips"], folder) == record_of(one["i2v_clips"], folder), "it may be continued by two"
    with pytest.raises(ConfigError, match="--processes 3 does not divide"):
        jobs_of(Choices(folder, processes=3))


def test_the_precision_is_that_of_all_trainings(folder):
    for precision in ("float32", "bfloat16"):
        jobs = trainings(Choices(folder, precision=precision))
        assert {job.config["deepspeed"]["bf16"]["enabled"] for job in jobs.values()} == {precision == "bfloat16"}


@pytest.fixture
def calls(folder, monkeypatch):
    """Commands in place of real ones: each makes its result, a stage's run folder with its last step included."""
    done = []

    def call(words, choices, job):
        done.append(job.name)
        if job.steps:
            (job.result / "training").mkdir(parents=True)
            (job.result / "training" / f"{job.steps}_rank_00.pt").touch()
            (job.result / "3d-vae.pt").write_text(job.name)
            (job.result / "latest").write_text(str(job.steps))
        elif job.name.startswith("judge"):
            job.result.parent.mkdir(exist_ok=True)
            job.result.write_text(f"table of {job.name}")
        else:
            [Path(word) for word in words if Path(word).is_dir()][-1].joinpath("file").touch()
    monkeypatch.setattr(make_small_model, "call", call)
    folder.mkdir()
    return done


def test_everything_is_made_once_and_kept(folder, calls):
    make_small_model.make(Choices(folder))
    assert calls == [job.name for job in jobs_of(Choices(folder))]
    assert "table of judge_t2v" in (folder / "table.md").read_text()
    assert (folder / "tiny/vae/3d-vae.pt").read_text() == "vae_scenes", "the last stage's weights are used"
    calls.clear()
    make_small_model.make(Choices(folder))
    assert calls == []


def test_the_autoencoder_of_an_earlier_last_stage_is_replaced(folder, calls):
    make_small_model.make(Choices(folder))
    (folder / "tiny/vae/3d-vae.pt").write_text("vae_decoder")
    make_small_model.make(Choices(folder))
    assert (folder / "tiny/vae/3d-vae.pt").read_text() == "vae_scenes"


def test_further_models_are_added_to_what_is_there(folder, calls):
    make_small_model.make(Choices(folder))
    before = list(calls)
    make_small_model.make(Choices(folder, also=ALSO))
    added = [job.name for job in jobs_of(Choices(folder, also=ALSO)) if job.name not in before]
    assert calls == before + added and added[-2:] == ["export_numbers", "judge_numbers"]
    assert (folder / "tiny/vae/preview.pt").read_text() == "preview_decoder"
    assert {"t5_numbers", "first_last", "control", "numbers"} <= {path.name for path in (folder / "tiny").iterdir()}
    assert "table of judge_numbers" in (folder / "table.md").read_text()
    assert "max_length: 24" in (folder / "numbers.yaml").read_text()
    assert jobs_of(Choices(folder)) == [job for job in jobs_of(Choices(folder, also=ALSO)) if job.name in before]


def test_what_lacks_its_last_step_goes_on_and_the_rest_is_kept(folder, calls):
    make_small_model.make(Choices(folder))
    calls.clear()
    (folder / "runs/t2v_clips/training/5_rank_00.pt").touch()
    (folder / "runs/t2v_clips/latest").write_text("5")
    (folder / "judged/i2v.md").unlink()
    assert [job.name for job in jobs_of(Choices(folder)) if not make_small_model.is_done(job)] == [
        "t2v_clips", "judge_i2v"]


def test_a_folder_that_is_made_in_part_is_not_taken_for_a_result(folder, calls, monkeypatch):
    def killed(words, choices, job):
        Path(words[words.index("--out") + 1], "half").touch()
        raise SystemExit(143)
    whole = make_small_model.call
    monkeypatch.setattr(make_small_model, "call", killed)
    with pytest.raises(SystemExit):
        make_small_model.make(Choices(folder))
    assert not (folder / "data/train").exists()
    monkeypatch.setattr(make_small_model, "call", whole)
    make_small_model.make(Choices(folder))
    assert not (folder / "data/train/half").exists() and (folder / "data/train/file").exists()


def test_a_folder_of_another_recipe_or_model_is_refused(folder, calls, monkeypatch):
    make_small_model.make(Choices(folder, quick=True))
    with pytest.raises(ConfigError, match="clips_train of another recipe .*--quick"):
        make_small_model.make(Choices(folder))
    make_small_model.check_same(jobs_of(Choices(folder, quick=True, processes=2)), folder)
    read = small_model_recipe.read_mapping

    def with_more_steps(path):
        found = read(path)
        if Path(path).name == "tiny_i2v.yaml":
            found.model.sampler_config.params.num_steps = 7
        return found

    monkeypatch.setattr(small_model_recipe, "read_mapping", with_more_steps)
    with pytest.raises(ConfigError, match="has (i2v_.*|judge_i2v) of another recipe"):
        make_small_model.check_same(jobs_of(Choices(folder, quick=True)), folder)


def test_a_mistake_in_a_recipe_is_named(folder, tmp_path, monkeypatch):
    for name in ("data", "vae", "t2v", "i2v"):
        text = (small_model_recipe.RECIPES / f"{name}.yaml").read_text()
        (tmp_path / f"{name}.yaml").write_text(text.replace("clips: [train, green,", "clips: [train, gren,"))
    monkeypatch.setattr(small_model_recipe, "RECIPES", tmp_path)
    with pytest.raises(ConfigError, match="vae_frames names clips 'gren', .*green"):
        jobs_of(Choices(folder))


def test_the_exit_code_of_a_command_is_passed_on(folder):
    job = jobs_of(Choices(folder))[0]
    with pytest.raises(SystemExit) as ended:
        make_small_model.call(["-c", "import sys; sys.exit(7)"], Choices(folder), job)
    assert ended.value.code == 7


@pytest.mark.slow
def test_the_plan_is_told_and_nothing_is_written(folder):
    done = subprocess.run([sys.executable, "tools/make_small_model.py", "--plan", "--out", folder], cwd=REPOSITORY,
                          capture_output=True, text=True, check=True)
    assert "t2v_clips (step 0 of 8000)" in done.stderr and not folder.exists()
