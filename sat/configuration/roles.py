"""The roles of a configuration: the classes that each of its slots accepts as a target.

A configuration file may come from a stranger, so a target can only be a class that fills a role, never any class that
an installed package happens to have.
"""
from collections.abc import Mapping

# Slot -> classes, of which subclasses are accepted too, or modules, of which every class is accepted.
ROLES: Mapping[str, tuple[str, ...]] = {
    "network_config": ("dit_video_concat.DiffusionTransformer",),
    "network_wrapper": ("network.wrapper.IdentityWrapper",),
    "pos_embed_config": ("network.positions.PositionMixin",),
    "patch_embed_config": ("network.blocks.ImagePatchEmbeddingMixin",),
    "adaln_layer_config": ("network.blocks.AdaLNMixin",),
    "final_layer_config": ("network.blocks.FinalLayerMixin",),
    "lora_config": ("network.lora.LoraMixin",),
    "step_cache_config": ("network.step_cache.StepCache",),
    "denoiser_config": ("sgm.denoiser.Denoiser",),
    "scaling_config": ("sgm.denoiser_scaling",),
    "weighting_config": ("sgm.denoiser_weighting",),
    "sampler_config": ("sgm.sampling.base.Sampler",),
    "discretization_config": ("sgm.discretizer.base.Discretization",),
    "guider_config": ("sgm.guiders.Guider", "sgm.guiders.IdentityGuider"),
    "dyn_thresh_config": ("sgm.sampling_utils",),
    "loss_fn_config": ("sgm.loss.StandardDiffusionLoss",),
    "sigma_sampler_config": ("sgm.sigma_sampling",),
    "conditioner_config": ("engine.conditioner.GeneralConditioner",),
    "emb_models": ("engine.text_encoder.AbstractEmbModel",),
    "first_stage_config": ("vae_modules.autoencoder.VideoAutoencodingEngine", "torch.nn.Identity"),
    "encoder_config": ("vae_modules.cp_enc_dec.ContextParallelEncoder3D",),
    "decoder_config": ("vae_modules.cp_enc_dec.ContextParallelDecoder3D",),
    "regularizer_config": ("vae_modules.regularizers",),
    "loss_config": ("vae_modules.losses", "vae_modules.adversarial.GeneralLPIPSWithDiscriminator",
                    "torch.nn.Identity"),
    "discriminator_config": ("vae_modules.discriminator.NLayerDiscriminator3D",),
    "data": ("data_video",),
}
# Where classes that fill a role are defined; nothing else can be named, whatever the slot.
HOMES = ("dit_video_concat", "network", "sgm", "engine", "vae_modules", "data_video",
         "torch.nn.modules.linear.Identity")


def slot_of(where: str) -> str:
    """Return the slot at a dotted place in a configuration, such as emb_models for ...params.emb_models[0]."""
    return where.rpartition(".")[2].partition("[")[0]
