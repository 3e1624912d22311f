"""Wrappers between a denoiser and the network, which map conditioning to the network's arguments."""
from typing import Any

import torch
from torch import nn


class IdentityWrapper(nn.Module):
    """The network, called with the arguments of the wrapper; `CompiledNetwork.compile_as` compiles it.

    State dict keys stay the same.
    """

    def __init__(self, diffusion_model: Any, compile_model: bool | str = False, compile_dynamic: bool = False):
        super().__init__()
        self.diffusion_model = diffusion_model
        if compile_model:
            diffusion_model.compile_as(compile_model, compile_dynamic)

    def forward(self, *args, **kwargs) -> torch.Tensor:
        return self.diffusion_model(*args, **kwargs)


class OpenAIWrapper(IdentityWrapper):
    """The network, given its conditioning: `concat` on the channels, `crossattn` as text, `vector` as labels."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: dict[str, torch.Tensor], **extra) -> torch.Tensor:
        """Run the network on x (B, T, C, H, W), t (B,) or (1,) and c["concat"] (B or 1, T, C', H, W).

        `extra` holds further inputs, such as `ofs`.
        """
        if "concat" in c:
            image = c["concat"].to(x.dtype)
            x = torch.cat((x, image.expand(x.shape[0], -1, -1, -1, -1)), dim=2)
        return self.diffusion_model(x, timesteps=t, context=c["crossattn"], y=c.get("vector"), **extra)
