"""Parts of the transformer that studies train beside the released ones."""
import torch
from dit_blocks import AdaLNMixin, Experts, Modulation
from dit_context import VideoContext
from torch import nn


class SharedAdaLNMixin(AdaLNMixin):
    """Adaptive LayerNorm without experts: text and video tokens have one modulation (CogVideoX, Yang et al. 2024)."""

    def __init__(self, hidden_size: int, num_layers: int, time_embed_dim: int, **sizes):
        super().__init__(hidden_size, num_layers, time_embed_dim, **sizes)
        self.adaLN_modulations = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(time_embed_dim, 6 * hidden_size)) for _ in range(num_layers))

    def modulations(self, layer_id: int, context: VideoContext) -> tuple[Experts, Experts]:
        parts = self.adaLN_modulations[layer_id][1](context.embedding).unflatten(-1, (2, 3, 1, -1)).unbind(1)
        both = [Modulation(shift, 1 + scale, gate) for shift, scale, gate in (part.unbind(1) for part in parts)]
        return tuple(Experts(one, one, context.text_length) for one in both)


class PlainLayerNormMixin(AdaLNMixin):
    """LayerNorm that no time modulates: the final layer alone is told the noise level."""

    def __init__(self, hidden_size: int, num_layers: int, time_embed_dim: int, **sizes):
        super().__init__(hidden_size, num_layers, time_embed_dim, **sizes)
        self.hidden_size = hidden_size
        self.adaLN_modulations = nn.ModuleList(nn.Identity() for _ in range(num_layers))  # counted, never called

    def reinit(self, parent_model=None) -> None:
        pass

    def modulations(self, layer_id: int, context: VideoContext) -> tuple[Experts, Experts]:
        zero = context.embedding.new_zeros(1, 1, self.hidden_size)
        plain = Modulation(zero, torch.ones_like(zero), torch.ones_like(zero))
        return (Experts(plain, plain, context.text_length),) * 2
