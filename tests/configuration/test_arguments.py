"""Tests that files, plain arguments and overrides make one configuration; errors suggest the nearest valid key."""
from pathlib import Path

import pytest

from arguments import get_args
from common.errors import ConfigError, UserError
from common.files import REPOSITORY

MODEL = """
args: {sampling_fps: 16, output_dir: somewhere, load: configs}
model:
  scale_factor: 0.7
  sampler_config:
    target: sgm.modules.diffusionmodules.sampling.EulerEDMSampler
    params:
      num_steps: 50
      guider_config:
        target: sgm.modules.diffusionmodules.guiders.DynamicCFG
        params: {scale: 6, exp: 5, num_steps: 50, schedule: decreasing}
  parts: [{params: {max_length: 3}}]
"""


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(MODEL)
    return ["--base", str(path)]


def sampler(args):
    return args.model_config.sampler_config.params


def test_later_files_win_key_by_key(base, tmp_path):
    (tmp_path / "b.yaml").write_text("args: {sampling_fps: 24}\nmodel: {sampler_config: {params: {num_steps: 7}}}")
    args = get_args([*base, str(tmp_path / "b.yaml")])
    assert args.sampling.sampling_fps == 24 and sampler(args).num_steps == 7
    assert sampler(args).guider_config.params.scale == 6


def test_overrides_reach_any_key_wherever_they_stand(base):
    args = get_args([*base, "model.sampler_config.params.num_steps=30", "--seed", "5", "args.sampling_fps=12",
                     "model.parts.0.params.max_length=9", "args.sampling_image_size=[32, 64]"])
    assert (sampler(args).num_steps, args.run.seed, args.sampling.sampling_fps) == (30, 5, 12)
    assert args.model_config.parts[0].params.max_length == 9
    assert args.sampling.sampling_image_size == [32, 64]


def test_a_mapping_takes_the_place_of_the_one_in_the_file(base):
    guider = {"target": "sgm.guiders.VanillaCFG", "params": {"scale": 2}}
    key = "model.sampler_config.params.guider_config"
    args = get_args([*base, f"{key}={{target: sgm.guiders.VanillaCFG, params: {{scale: 2}}}}"])
    assert sampler(args).guider_config == guider and sampler(args).num_steps == 50
    assert sampler(get_args([*base, f"{key}.params={{}}"])).guider_config.params == {}
    assert get_args([*base, "args={sampling_fps: 9}"]).sampling.output_dir is not None


def test_plain_arguments_set_the_nested_keys(base):
    args = get_args([*base, "--num-inference-steps", "20", "--guidance-scale", "3.5", "--num-frames", "9"])
    guider = sampler(args).guider_config.params
    assert (sampler(args).num_steps, guider.num_steps, guider.scale, args.sampling.num_frames) == (20, 20, 3.5, 9)


@pytest.mark.parametrize("words, says", [
    (["--guidance-scale", "1", "model.sampler_config.params.guider_config={target: a.APG, params: {scale: 3}}"],
     "--guidance-scale has no effect: model.sampler_config.params.guider_config= comes after it and makes "
     "model.sampler_config.params.guider_config.params.scale 3; give one of the two"),
    (["args.seed=4", "--seed", "3"], "--seed has no effect: args.seed= comes after it and makes args.seed 4"),
    (["--no-dynamic-cfg", "model.sampler_config.params.guider_config={target: a.APG}"], "--no-dynamic-cfg has no"),
    (["--num-inference-steps", "4", "model.sampler_config.params.guider_config={target: a.APG}"], None),
    (["--num-inference-steps", "4", "model.sampler_config.params.guider_config.params.num_steps=9"],
     "--num-inference-steps has no effect on one of its keys: model.sampler_config.params.guider_config.params."),
    (["--num-inference-steps", "4", "model.sampler_config={target: a.X, params: {}}"], "--num-inference-steps has no"),
    (["--seed", "3", "args.seed=3"], None), (["--seed", "3", "args.batch_size=2"], None),
    (["--guidance-scale", "1", "model.sampler_config.params.guider_config.params.exp=3"], None)])
def test_a_flag_whose_key_is_set_after_it_is_told(base, caplog, words, says):
    get_args([*base, *words])
    assert (says in caplog.text) if says else not caplog.text


def test_arguments_not_given_leave_the_files_alone(base):
    args = get_args(base)
    assert sampler(args).num_steps == 50 and args.sampling.sampling_fps == 16
    assert sampler(args).guider_config.params.schedule == "decreasing"


def test_dynamic_guidance_is_switched_in_one_place(base):
    off = sampler(get_args([*base, "--no-dynamic-cfg", "--guidance-scale", "4"])).guider_config
    assert off == {"target": "sgm.modules.diffusionmodules.guiders.VanillaCFG", "params": {"scale": 4.0}}
    assert sampler(get_args([*base, "--use-dynamic-cfg"])).guider_config.params.schedule == "decreasing"
    back = get_args([*base, "--use-dynamic-cfg", "model.sampler_config.params.num_steps=8"])
    assert sampler(back).guider_config.target.endswith("DynamicCFG")
    limited = "model.sampler_config.params.guider_config.params.sigma_lo=1"
    assert sampler(get_args([*base, "--no-dynamic-cfg", limited])).guider_config.params.sigma_lo == 1


def test_paths_in_files_start_at_the_repository_and_typed_ones_where_the_user_stands(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a")
    args = get_args([*base, "--input-file", "prompts.txt"])
    assert Path(args.sampling.output_dir) == REPOSITORY / "somewhere" and Path(args.run.load) == REPOSITORY / "configs"
    assert Path(args.sampling.input_file) == tmp_path / "prompts.txt"
    assert Path(get_args([*base, "args.output_dir=here"]).sampling.output_dir) == tmp_path / "here"


def test_flags_that_name_several_files_add_up(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").touch()
    run = get_args([*base, "--load-lora", "a", "b", "--lora-scale", "1", "-0.5", "--load-lora", "c", "--lora-scale", "2"
                    ]).run
    assert run.loras == [("a", 1.0, None), (str(tmp_path / "b"), -0.5, None), ("c", 2.0, None)]
    assert get_args([*base, "args.load_lora=b", "args.lora_scale=0.5"]).run.loras == [(str(tmp_path / "b"), 0.5, None)]


def test_a_flag_that_takes_files_may_be_given_again(base, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("args: {sampling_fps: 5}\n")
    assert get_args([*base, "--base", str(other)]).sampling.sampling_fps == 5
    assert get_args([*base, 'args.negative_prompt="blurry #1"']).sampling.negative_prompt == "blurry #1"


@pytest.mark.parametrize("words, says", [
    (["args.load_lora=a", "args.lora_scale=[1,2]"], "args.lora_scale has 2 number(s), args.load_lora 1 LoRA(s)"),
    (["args.load_lora=a", "args.lora_scale=strong"], "args.lora_scale is 'strong'; it must be a list of numbers"),
    (["args.load_lora=a", "args.lora_alpha=0"], "args.lora_alpha is 0"),
    (["args.sampling_fsp=3"], "did you mean sampling_fps?"),
    (["args.num_inference_steps=3"], "as key=value it is model.sampler_config.params.num_steps"),
    (["args.guidance_scale=3"], "as key=value it is model.sampler_config.params.guider_config.params.scale"),
    (["modle.scale_factor=3"], "did you mean model?"),
    (["--sede", "3"], "did you mean --seed?"),
    (["--seed", "three"], "--seed"),
    (["args.seed=three"], "args.seed is 'three'; it must be a whole number"),
    (["args.resume=3"], "true or false"),
    (["args.batch_size=0"], "args.batch_size is 0"),
    (["args.input_type=text"], "did you mean txt?"),
    (["args.sampling_image_size=[3]"], "[height, width]"),
    (["args.fp16=true", "--bf16"], "both true"),
    (["args.device=abacus"], "args.device is 'abacus'"),
    (["args.seed=[1"], "args.seed=[1"),
    (["args.seed=010"], "YAML takes a leading 0 for octal"),
    (["args.seed=1:30"], "a colon for sixtieths"),
    (["args.negative_prompt=blurry #1 defect"], "what follows a blank and # is a comment"),
    (["args.load=${nowhere}"], "nowhere"),
    (["model=3"], "model cannot be set"),
    (["model.parts.7.params=3"], "model.parts.7.params"),
])
def test_mistakes_name_the_key(base, words, says):
    with pytest.raises(ConfigError) as error:
        get_args([*base, *words])
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text, says", [
    ("args: {sampling_fsp: 3}", "did you mean sampling_fps?"),
    ("agrs: {}", "did you mean args?"),
    ("args: [1", "not a readable YAML file"),
    ("- a\n- b", "not a mapping"),
    ("args: 3", "section args must be a mapping"),
])
def test_mistakes_in_files_name_the_file(base, tmp_path, text, says):
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(ConfigError, match="other.yaml") as error:
        get_args([*base, str(tmp_path / "other.yaml")])
    assert says in str(error.value)


def test_missing_files():
    with pytest.raises(ConfigError, match="did you mean configs/tiny_t2v.yaml"):
        get_args(["--base", "configs/tiny_t2w.yaml"])
    with pytest.raises(ConfigError, match="give --base"):
        get_args([])


def test_binary_file_is_no_configuration(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="a.yaml"):
        get_args(["--base", str(tmp_path / "a.yaml")])


BOMB = "args:\n  a0: &a0 [x, x, x, x]\n" + "".join(
    f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
REFERENCES = "model:\n  r0: yyyyyyyyyy\n" + "".join(
    f"  r{i}: '{f'${{model.r{i - 1}}}' * 9}'\n" for i in range(1, 9))


@pytest.mark.parametrize("text, says", [
    ("", "is empty"), ("# nothing", "is empty"), ("a red circle\na blue one", "plain text"),
    ("args: " + "[" * 4000, "nested too deeply"), ("args: " + "{a: " * 80 + "1" + "}" * 80, "more than 60 levels deep"),
    (BOMB, "expands to more than"), ("args: &a {seed: *a}", "inside what it refers to"),
    ("args: {seed: 1, seed: 2}", "duplicate key"), ("args:\n\tseed: 1", "indent with spaces"),
    ("args: {seed: " + "9" * 6000 + "}", "thousands of digits"),
    ("args: {seed: " + "9" * 40 + "}", "args.seed is 9999"),
    ("args: {seed: !!python/object/apply:os.getpid []}", "could not determine a constructor"),
    ("args: {negative_prompt: " + "a" * 400_000 + "}", "too many for a configuration"),
    (REFERENCES, "its references stand for more than"), ("args: {1: 2}", "unknown key args.1"),
    ("args: {load: '${args.save}', save: '${args.load}'}", "refers to itself"),
    ("args: {load: '${oc.decode:1}'}", "a reference can be"), ("args: {load: '${oc.env:${args.save}}'}", "a reference"),
    ("args: {output_dir: ''}", "args.output_dir is '', which is empty"),
    ("args: {load: ~nobody_at_all/x}", "the home folder of a user"),
    ("args: {save: '" + "x" * 5000 + "'}", "too long for a path"),
    ("args: {save_interval: 0}", "args.save_interval is 0; it must be a whole number above 0"),
    ("args: {ema_decay: .nan}", "args.ema_decay is nan; it must be a finite number"),
    ("args: {final_lr_share: .nan}", "args.final_lr_share is nan"),
    ("args: {warmup_iters: -1}", "args.warmup_iters is -1"),
    ("args: {num_samples: 1000000000000000000000000000000}", "at most 100000"),
    ("args: {num_frames: -5}", "args.num_frames is -5"), ("args: {train_data: []}", "args.train_data is []"),
])
def test_odd_files_are_one_line(base, tmp_path, text, says):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        get_args([*base, str(tmp_path / "odd.yaml")])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_a_file_is_one_line(base, tmp_path):
    for name, says in ((str(tmp_path), "is a folder"), ("x" * 5000, "too long"), ("~nobody_at_all/a", "home folder"),
                       ("a\0b", "UTF-8"), ("a\udc80", "UTF-8"), ("", "is empty")):
        with pytest.raises(UserError, match=says):
            get_args([*base, name])


def test_files_read_the_environment_only_where_the_command_line_allows(base, tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "hush")
    monkeypatch.setenv("A_REFERENCE", "${oc.env:A_SECRET}")
    (tmp_path / "odd.yaml").write_text("args: {negative_prompt: 'a ${oc.env:A_SECRET}'}\n"
                                       "model: {x: '${oc.env:A_REFERENCE}'}")
    words = [*base, str(tmp_path / "odd.yaml")]
    with pytest.raises(ConfigError, match="reads the environment variable A_SECRET; .* add --allow-env A_SECRET"):
        get_args(words)
    with pytest.raises(ConfigError, match="A_SECRET; .* --allow-env"):  # nor does the value of another variable
        get_args([*words, "--allow-env", "A_REFERENCE", "args.negative_prompt=a"])
    (tmp_path / "odd.yaml").write_text("args: {negative_prompt: 'a ${oc.env:A_SECRET}'}")
    args = get_args([*words, "--allow-env", "A_SECRET"])
    assert args.sampling.negative_prompt == "a hush"


def test_references_to_keys_are_followed_wherever_they_stand(base, tmp_path):
    (tmp_path / "odd.yaml").write_text("args: {experiment_name: '${model.name}', seed: 3,\n"
                                       "       save: '${args.output_dir}/${.seed}'}\n"
                                       "model: {name: red, parts: ['${model.name}']}")
    args = get_args([*base, str(tmp_path / "odd.yaml")])
    assert args.training.experiment_name == "red" and args.model_config.parts == ["red"]
    assert args.training.save.endswith("somewhere/3")


def test_whole_numbers_may_be_written_with_a_point(base, tmp_path):
    (tmp_path / "odd.yaml").write_text("args: {num_frames: 9., batch_size: 2.0}")
    args = get_args([*base, str(tmp_path / "odd.yaml")])
    assert (args.sampling.num_frames, args.sampling.batch_size) == (9, 2) and type(args.sampling.num_frames) is int
