"""Tests of the engine: valid configurations, sampling with a generator per row, both kinds of training step."""
import copy
from argparse import Namespace

import pytest
import torch
from omegaconf import OmegaConf

from common.errors import CheckpointError, ConfigError, NumericalError
from common.seeds import generator_for
from diffusion_video import DiffusionEngine, SATVideoDiffusionEngine
from engine.checks import check_model

SHAPE = (5, 4, 4, 4)


def config_of(small_model, name="t2v", **model):
    config = OmegaConf.load(small_model / f"{name}.yaml").model
    return OmegaConf.merge(config, model)


def build(config, **args):
    torch.manual_seed(3)
    defaults = {"fp16": False, "bf16": False, "device": "cpu"}
    engine = DiffusionEngine(Namespace(model_config=config, **{**defaults, **args}))
    for parameter in engine.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return engine.eval()


@pytest.fixture(scope="module")
def engine(small_model):
    return build(config_of(small_model))


@pytest.fixture(scope="module")
def image_engine(small_model):
    return build(config_of(small_model, "i2v"))


def conditioning(engine, prompts):
    return engine.conditioner.get_unconditional_conditioning({"txt": prompts}, force_uc_zero_embeddings=["txt"])


def sample(engine, rows, **extra):
    c, uc = conditioning(engine, ["a red circle", "a blue square moves left"])
    c, uc = ({k: v[rows] for k, v in d.items()} for d in (c, uc))
    generators = [generator_for(0, row) for row in rows]
    return engine.sample(c, uc, batch_size=len(rows), shape=SHAPE, generator=generators, **extra)


def test_the_released_name_is_the_same_class():
    assert SATVideoDiffusionEngine is DiffusionEngine


def test_a_row_does_not_depend_on_its_neighbours(engine):
    together = sample(engine, [0, 1])
    assert together.shape == (2, *SHAPE)
    torch.testing.assert_close(sample(engine, [1])[0], together[1], atol=1e-4, rtol=1e-4)
    assert torch.equal(sample(engine, [0, 1]), together)


def test_batch_shape_and_noise_follow_from_the_conditioning_or_are_given(engine):
    both = engine.conditioner.conditioning({"txt": ["a red circle", "a blue square moves left"]})
    generators = [generator_for(0, row) for row in (0, 1)]
    latents = engine.sample(both, generator=generators)
    assert torch.equal(latents, sample(engine, [0, 1]))
    noise = torch.stack([torch.randn(SHAPE, generator=generator_for(0, row)) for row in (0, 1)])
    assert torch.equal(engine.sample(both, noise=noise), latents)
    for given, says in (({"batch_size": 1}, "conditioning is of 2"), ({"shape": (4, 5, 4, 4)}, r"is it \[5, 4, 4, 4\]"),
                        ({"noise": noise[:1]}, r"the noise is \[1, 5, 4, 4, 4\]"),
                        ({"uc": both.uncond}, "leave uc out")):
        with pytest.raises(ConfigError, match=says):
            engine.sample(both, **given)


def test_steps_and_scale_may_differ_per_call(engine):
    steps = []
    sample(engine, [0], num_steps=5, callback=steps.append)
    assert [s.index for s in steps] == list(range(5)) and steps[0].scale > steps[-1].scale
    unguided = sample(engine, [0], scale=1)
    c, _ = conditioning(engine, ["a red circle"])
    torch.testing.assert_close(engine.sample(c, None, 1, SHAPE, generator=[generator_for(0, 0)]), unguided)


def test_every_sampler_runs_with_dynamic_guidance_and_an_image(small_model, image_engine):
    c, uc = conditioning(image_engine, ["a red circle"])
    c["concat"] = uc["concat"] = image_engine.encode_image(torch.zeros(1, 3, 32, 32), 5)
    edm = {"target": "sgm.modules.diffusionmodules.discretizer.EDMDiscretization"}
    from configuration.targets import instantiate_from_config
    original = image_engine.sampler
    for name in ("EulerEDMSampler", "HeunEDMSampler", "DPMPP2MSampler", "EulerAncestralSampler", "VPSDEDPMPP2MSampler"):
        for table in (edm, image_engine.config.sampler_config["params"]["discretization_config"]):
            image_engine.sampler = instantiate_from_config({
                "target": f"sgm.modules.diffusionmodules.sampling.{name}",
                "params": {**image_engine.config.sampler_config["params"], "discretization_config": table}})
            out = image_engine.sample(c, uc, 1, SHAPE, generator=[generator_for(1)])
            assert torch.isfinite(out).all(), (name, table)
    image_engine.sampler = original


def test_decoding_in_chunks_is_decoding(engine):
    z = torch.randn(2, 4, 5, 4, 4)
    whole = engine.decode_first_stage(z)
    assert whole.shape == (2, 3, 17, 32, 32)
    assert torch.equal(torch.cat(list(engine.decode_chunks(z)), 2), whole)
    assert [c.shape[2] for c in engine.decode_chunks(z)] == [9, 8]


@pytest.mark.slow
def test_guidance_goes_pass_by_pass_when_asked(small_model):
    rows = {}
    for asked in (False, True):
        engine = build(config_of(small_model, guidance_one_by_one=asked))
        rows[asked] = []
        engine.model.register_forward_pre_hook(lambda _, given, seen=rows[asked]: seen.append(len(given[0])))
        sample(engine, [0, 1])
    assert set(rows[True]) == {2} and 4 in rows[False] and sum(rows[True]) == sum(rows[False])


@pytest.mark.slow
def test_the_first_stage_is_compiled_when_asked(small_model):
    for asked in (False, True):
        first_stage = build(config_of(small_model, compile_first_stage=asked)).first_stage_model
        assert ("forward" in vars(first_stage.decoder)) == ("forward" in vars(first_stage.encoder)) == asked


def test_the_image_latent_has_its_own_scale(small_model, image_engine):
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    released = image_engine.encode_image(image, 5, generator_for(0))
    assert released.shape == (1, *SHAPE) and not released[:, 1:].any()
    scaled = build(config_of(small_model, "i2v", image_latent_scale=1.4)).encode_image(image, 5, generator_for(0))
    torch.testing.assert_close(scaled, released * 2)


def test_training_reaches_the_network_and_nothing_else(engine):
    torch.manual_seed(0)
    engine.train()
    loss, log = engine.shared_step({"mp4": torch.rand(2, 17, 3, 32, 32) * 2 - 1, "txt": ["a", "a red circle"]})
    loss.backward()
    engine.eval()
    reached = {n.split(".")[0] for n, p in engine.named_parameters() if p.grad is not None}
    assert reached == {"model"} and not engine.first_stage_model.training
    assert log["loss_per_sample"].shape == log["timesteps"].shape == (2,)
    engine.zero_grad()


def test_training_on_cached_latents_equals_training_on_the_video(small_model):
    engine = build(config_of(small_model, latent_input=True))
    engine.conditioner.embedders[0].ucg_rate = 0.0
    video = torch.rand(1, 17, 3, 32, 32) * 2 - 1
    batch = {"txt": ["a"]}
    torch.manual_seed(5)
    from_video, _ = engine.shared_step({**batch, "mp4": video})
    torch.manual_seed(5)
    latents = engine.encode_first_stage(video.transpose(1, 2)).transpose(1, 2) / engine.scale_factor
    from_latents, _ = engine.shared_step({**batch, "mp4": latents})
    torch.testing.assert_close(from_latents, from_video)


@pytest.mark.parametrize("patches, padding", [({}, 0), ({"patch_size": [2, 2, 2], "ofs_embed_dim": 32}, 1)])
def test_control_training_joins_the_mean_latents_of_the_control_clip(small_model, patches, padding):
    config = config_of(small_model, "i2v", noised_image_input=False, control_input=True, latent_input=True)
    config.network_config.params.update(patches)
    engine, seen = build(config), []
    engine.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(args[2]["concat"]),
                                           with_kwargs=True)
    video, control = torch.rand(2, 2, 17, 3, 32, 32) * 2 - 1
    batch = {"mp4": video, "txt": ["a", "a red circle"]}
    engine.shared_step({**batch, "control": control})
    latents = engine.encode_first_stage(control.transpose(1, 2), sample_posterior=False).transpose(1, 2)
    engine.shared_step({**batch, "control_latents": latents / engine.scale_factor})
    assert seen[0].shape == (2, 5 + padding, 4, 4, 4)
    for given in seen:
        torch.testing.assert_close(given[:, padding:], latents)
        torch.testing.assert_close(given[:, :padding], latents[:, :padding])
    with pytest.raises(ValueError, match="needs batch\\['control'\\]"):
        engine.shared_step(batch)


@pytest.mark.parametrize("rate, dropped", [(0.0, {0}), (0.5, set(range(1, 8))), (1.0, {8})])
def test_control_training_drops_a_share_of_the_control_clips(small_model, rate, dropped):
    config = config_of(small_model, "i2v", noised_image_input=False, control_input=True, control_dropout=rate)
    engine, seen = build(config), {}
    engine.model.register_forward_pre_hook(lambda module, args: seen.update(args[2]))
    torch.manual_seed(4)
    engine.shared_step({"mp4": torch.rand(8, 1, 3, 32, 32), "control": torch.rand(8, 1, 3, 32, 32), "txt": ["a"] * 8})
    assert sum(not row.any() for row in seen["concat"]) in dropped


def test_image_training_drops_the_image_latent(small_model):
    engine = build(config_of(small_model, "i2v", noised_image_dropout=1.0))
    seen = {}
    engine.model.register_forward_pre_hook(lambda module, args: seen.update(args[2]))
    engine.shared_step({"mp4": torch.rand(1, 17, 3, 32, 32), "txt": ["a"]})
    assert seen["concat"].shape == (1, *SHAPE) and not seen["concat"].any()


@pytest.mark.parametrize("patches", [{}, {"patch_size": [2, 2, 2], "ofs_embed_dim": 32}])
def test_the_last_frame_is_given_to_its_share_of_clips(small_model, patches):
    config = config_of(small_model, "i2v")
    config.network_config.params.update(patches)
    engine, seen = build(config), []
    engine.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(args[2]["concat"]),
                                           with_kwargs=True)
    batch = {"mp4": torch.rand(8, 17, 3, 32, 32), "txt": ["a"] * 8}
    for rate in (0.0, 0.5, 1.0):
        engine.last_frame_rate = rate
        torch.manual_seed(1)
        engine.shared_step(batch)
    none, some, every = ([bool(row[-1].any()) for row in given] for given in seen)
    assert not any(none) and all(every) and 0 < sum(some) < 8
    for given in seen:
        assert given[:, 0].any() and not given[:, 1:-1].any()


def test_the_last_image_is_in_the_last_latent_frame(small_model, image_engine):
    first, last = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    alone = image_engine.encode_image(first, 5, generator_for(0))
    both = image_engine.encode_image(first, 5, generator_for(0), last)
    assert torch.equal(both[:, :-1], alone[:, :-1]) and both[:, -1].any() and not alone[:, -1].any()
    swapped = image_engine.encode_image(last, 5, None)
    assert swapped.shape == both.shape


def test_the_first_frames_noise_is_drawn_as_the_release_draws_it(small_model, monkeypatch):
    engine, drawn, draw = build(config_of(small_model, "i2v")), [], torch.randn
    monkeypatch.setattr(torch, "randn", lambda shape, **words: drawn.append(tuple(shape)) or draw(shape, **words))
    engine.shared_step({"mp4": torch.rand(2, 17, 3, 32, 32), "txt": ["a", "b"]})
    assert drawn.count((2, 3, 1, 32, 32)) == 1, "a seed gives the release's training only with draws of this shape"


def test_time_patches_train_with_a_padding_latent_and_ofs(small_model):
    config = config_of(small_model, "i2v")
    config.network_config.params.update(patch_size=[2, 2, 2], ofs_embed_dim=32)
    engine = build(config)
    seen = {}
    engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(x=args[0], c=args[2], **kwargs), with_kwargs=True)
    assert engine.image_latent_scale == 1.0
    loss, _ = engine.shared_step({"mp4": torch.rand(1, 17, 3, 32, 32), "txt": ["a"]})
    assert torch.isfinite(loss) and seen["x"].shape[1] == seen["c"]["concat"].shape[1] == 6
    assert seen["ofs"].tolist() == [2.0]
    assert seen["c"]["concat"][:, :1].any() and not seen["c"]["concat"][:, 1:].any()


def test_frames_that_do_not_count_leave_the_loss_and_padding_counts(small_model):
    config = config_of(small_model)
    config.network_config.params.update(patch_size=[2, 2, 2])
    engine, given = build(config), []
    terms = engine.loss_fn.terms
    engine.loss_fn.terms = lambda *args: given.append(args[-1]) or terms(*args)
    batch = {"mp4": torch.rand(1, 17, 3, 32, 32), "txt": ["a"]}
    losses = []
    for counted in ({}, {"counted": torch.tensor([[1.0, 1, 0, 0, 0]])}):
        torch.manual_seed(3)
        losses.append(engine.shared_step(batch | counted)[0].item())
    assert given[1]["counted"].tolist() == [[1, 1, 1, 0, 0, 0]] and "counted" not in given[0]
    assert losses[0] != losses[1] and losses[1] > 0


def test_lora_training_freezes_the_rest(small_model):
    engine = build(config_of(small_model, not_trainable_prefixes=["all"]))
    engine.disable_untrainable_params()
    assert not any(p.requires_grad for p in engine.parameters())


def test_half_precision_weights_sample_in_float32(small_model):
    engine = build(config_of(small_model), bf16=True)
    assert engine.dtype == torch.bfloat16
    out = sample(engine, [0])
    assert out.dtype == torch.float32 and torch.isfinite(out).all()


def test_numbers_that_are_not_finite_name_the_step(small_model):
    engine = build(config_of(small_model))
    torch.nn.init.constant_(engine.network.mixins["final_layer"].linear.bias, float("nan"))
    with pytest.raises(NumericalError, match="step 1 of 3"):
        sample(engine, [0])


@pytest.mark.parametrize("change, says", [
    ({"scale_facto": 1}, "did you mean scale_factor?"),
    ({"lr_scale": 2}, "model.lr_scale"),
    ({"network_config": {"params": {"hiden_size": 3}}}, "did you mean hidden_size?"),
    ({"network_config": {"target": "os.system"}}, "os.system may not be named"),
    ({"sampler_config": {"target": "sgm.modules.diffusionmodules.sampling.EulerSampler"}}, "EulerEDMSampler"),
    ({"compile_model": "reginal"}, "it must be true, false, regional or max"),
    ({"compile_dynamic": True}, "compile_dynamic has no effect without model.compile_model"),
    ({"compile_model": "max", "compile_dynamic": True}, "does not work with compile_dynamic"),
    ({"compile_model": "max", "step_cache_config": {"target": "step_cache.TeaCache", "params": {"threshold": 0.1}}},
     "does not work with step_cache_config"),
    ({"compile_first_stage": True, "first_stage_config": {"params": {"cp_size": 2}}}, "leave one out"),
])
def test_mistakes_are_found_without_building(small_model, change, says):
    with pytest.raises(ConfigError) as error:
        check_model(config_of(small_model, **change))
    assert says in str(error.value)


def test_missing_parts_and_files_are_found_without_building(small_model):
    config = copy.deepcopy(config_of(small_model))
    del config["first_stage_config"]
    with pytest.raises(ConfigError, match="first_stage_config is missing"):
        check_model(config)
    with pytest.raises(CheckpointError, match="nowhere"):
        check_model(config_of(small_model, first_stage_config={"params": {"ckpt_path": "nowhere"}}))


@pytest.mark.parametrize("change, says", [
    ({"noised_image_input": True}, "in_channels is 4"),
    ({"control_input": True}, "in_channels is 4; with control_input true it must be 2 x out_channels = 8"),
    ({"network_config": {"params": {"modules": {"pos_embed_config": {"params": {"text_length": 9}}}}}},
     "max_length is 12"),
    ({"network_config": {"params": {"modules": {"patch_embed_config": {"params": {"text_hidden_size": 9}}}}}},
     "d_model is 16"),
])
def test_parts_that_do_not_fit_are_refused_when_built(small_model, change, says):
    with pytest.raises(ConfigError, match=says):
        build(config_of(small_model, **change))
