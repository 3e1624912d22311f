"""A whole model with random weights, small enough for tests, in the files and formats of a released one."""
import copy
from pathlib import Path

import torch
from omegaconf import OmegaConf

WORDS = "a red green blue circle square triangle moves left right up down grows shrinks on black background".split()
TEXT_LENGTH, TEXT_WIDTH = 12, 16
VAE = {"double_z": True, "z_channels": 4, "in_channels": 3, "out_ch": 3, "ch": 32,
       "ch_mult": [1, 1, 1, 1], "attn_resolutions": [], "num_res_blocks": 1, "dropout": 0.0, "gather_norm": False}
TABLE = {"target": "sgm.modules.diffusionmodules.discretizer.ZeroSNRDDPMDiscretization", "params": {"shift_scale": 1.0}}


def write_t5(folder: Path) -> None:
    """Write a T5 encoder of one layer, with a sentencepiece model of single words and letters."""
    import sentencepiece
    from transformers import T5Config, T5EncoderModel
    folder.mkdir(parents=True)
    lines = folder / "lines.txt"
    lines.write_text("\n".join([" ".join(WORDS), *WORDS] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines), model_prefix=str(folder / "spiece"), vocab_size=60, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        hard_vocab_limit=False, minloglevel=2)
    lines.unlink()
    torch.manual_seed(1)
    config = T5Config(vocab_size=200, d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                      feed_forward_proj="gated-gelu")
    T5EncoderModel(config).save_pretrained(folder)


def model_config(t5: Path, vae: Path, image: bool = False) -> dict:
    """Return the `model` section of a two-layer transformer: 17 frames of 32 x 32, five latent frames of 4 x 4."""
    vae_part = "vae_modules.cp_enc_dec.ContextParallel{}3D"
    parts = "sgm.modules.diffusionmodules."
    return {
        "scale_factor": 0.7, "log_keys": ["txt"], "noised_image_input": image,
        "denoiser_config": {"target": parts + "denoiser.DiscreteDenoiser", "params": {
            "num_idx": 1000, "quantize_c_noise": False,
            "weighting_config": {"target": parts + "denoiser_weighting.EpsWeighting"},
            "scaling_config": {"target": parts + "denoiser_scaling.VideoScaling"}, "discretization_config": TABLE}},
        "network_config": {"target": "dit_video_concat.DiffusionTransformer", "params": {
            "num_frames": 17, "time_compressed_rate": 4, "latent_width": 4, "latent_height": 4, "patch_size": [1, 2, 2],
            "in_channels": 8 if image else 4, "out_channels": 4, "num_layers": 2, "hidden_size": 64,
            "num_attention_heads": 1, "time_embed_dim": 32, "transformer_args": {}, "modules": {
                "pos_embed_config": {"target": "dit_video_concat.Rotary3DPositionEmbeddingMixin",
                                     "params": {"hidden_size_head": 64, "text_length": TEXT_LENGTH}},
                "patch_embed_config": {"target": "dit_video_concat.ImagePatchEmbeddingMixin",
                                       "params": {"text_hidden_size": TEXT_WIDTH}},
                "adaln_layer_config": {"target": "dit_video_concat.AdaLNMixin", "params": {"qk_ln": True}},
                "final_layer_config": {"target": "dit_video_concat.FinalLayerMixin"}}}},
        "conditioner_config": {"target": "sgm.modules.GeneralConditioner", "params": {"emb_models": [{
            "target": "sgm.modules.encoders.modules.FrozenT5Embedder", "input_key": "txt", "ucg_rate": 0.1,
            "is_trainable": False, "params": {"model_dir": str(t5), "max_length": TEXT_LENGTH}}]}},
        "first_stage_config": {"target": "vae_modules.autoencoder.VideoAutoencoderInferenceWrapper", "params": {
            "ckpt_path": str(vae), "ignore_keys": ["loss"], "loss_config": {"target": "torch.nn.Identity"},
            "regularizer_config": {"target": "vae_modules.regularizers.DiagonalGaussianRegularizer"},
            "encoder_config": {"target": vae_part.format("Encoder"), "params": VAE},
            "decoder_config": {"target": vae_part.format("Decoder"), "params": VAE}}},
        "loss_fn_config": {"target": parts + "loss.VideoDiffusionLoss", "params": {"sigma_sampler_config": {
            "target": parts + "sigma_sampling.DiscreteSampling",
            "params": {"uniform_sampling": True, "num_idx": 1000, "discretization_config": TABLE}}}},
        "sampler_config": {"target": parts + "sampling.EulerEDMSampler", "params": {
            "num_steps": 3, "discretization_config": TABLE, "guider_config": {
                "target": parts + "guiders.DynamicCFG",
                "params": {"scale": 6, "exp": 5, "num_steps": 3, "schedule": "decreasing"}}}},
    }


def write_model(root: Path, image: bool = False) -> Path:
    """Write weights and configuration below `root`; return the configuration's path."""
    from configuration.targets import instantiate_from_config
    from weights.checkpoint import save_checkpoint
    t5, vae = root / "t5", root / "3d-vae.pt"
    if not t5.exists():
        write_t5(t5)
    config = model_config(t5, vae, image)
    torch.manual_seed(2)
    if not vae.exists():
        first_stage = copy.deepcopy(config["first_stage_config"])
        del first_stage["params"]["ckpt_path"]
        torch.save({"state_dict": instantiate_from_config(first_stage).state_dict()}, vae)
    network = instantiate_from_config(config["network_config"])
    for parameter in network.parameters():  # final layers that start at zero would hide all layers before them
        torch.nn.init.normal_(parameter, std=0.1)
    weights = root / ("i2v" if image else "t2v")
    save_checkpoint(weights, 7, {"module": {f"model.diffusion_model.{k}": v for k, v in network.state_dict().items()}})
    path = root / f"{weights.name}.yaml"
    OmegaConf.save({"args": {"load": str(weights), "latent_channels": 4, "sampling_image_size": [32, 32]},
                    "model": config}, path)
    return path
