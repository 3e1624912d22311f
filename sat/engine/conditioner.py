"""The conditioner: embedders that turn a batch into the network's conditioning."""
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.kinds import Part
from configuration.targets import instantiate_from_config
from engine.text_encoder import AbstractEmbModel
from sgm.conditioning import Conditioning

KEY_OF_NDIM = {2: "vector", 3: "crossattn", 4: "concat", 5: "concat"}
AXIS_OF_KEY = {"vector": 1, "crossattn": 2, "concat": 1}  # axis on which outputs with the same key are concatenated


class GeneralConditioner(nn.Module):
    """The embedders of a model; their outputs are keyed by number of dimensions.

    `emb_models` is a list of `{target, params, input_key, ucg_rate, is_trainable}`. An embedder may return a list or
    tuple of tensors. Output: `vector` (B, D), `crossattn` (B, N, D), `concat` (B, C, H, W) or (B, T, C, H, W).
    """

    def __init__(self, emb_models: Sequence[Part]):
        super().__init__()
        self.embedders = nn.ModuleList(_build_embedder(config, i) for i, config in enumerate(emb_models))

    @property
    def parts(self) -> Iterator[AbstractEmbModel]:
        """The embedders in order."""
        for embedder in self.embedders:
            assert isinstance(embedder, AbstractEmbModel)
            yield embedder

    def train(self, mode: bool = True) -> "GeneralConditioner":
        """Set the training mode; untrained embedders stay in evaluation mode, as dropout would corrupt their output."""
        super().train(mode)
        for embedder in self.parts:
            embedder.train(mode and embedder.is_trainable)
        return self

    def forward(self, batch: Mapping, force_zero_embeddings: Collection[str] = ()) -> dict[str, Tensor]:
        """Return the conditional inputs of a batch, with zeros for input keys in `force_zero_embeddings`.

        In training mode rows are dropped as `dropped` does; in evaluation mode never.
        """
        return self._embed(batch, force_zero_embeddings, drop=self.training)

    def dropped(self, batch: Mapping) -> dict[str, Tensor]:
        """Return the conditional inputs of a training batch, in any mode.

        Each row of an embedding is dropped (zeroed) with probability `ucg_rate`, drawn separately for each tensor.
        """
        return self._embed(batch, (), drop=True)

    def conditioning(self, batch: Mapping, negative: Mapping | None = None) -> Conditioning:
        """Return the conditioning of a batch with its unconditional half, without dropping embeddings.

        The unconditional half embeds what `negative` has for an input key, such as negative prompts. Other embeddings
        are zeros in it if training drops them (`ucg_rate` above 0, or all without any rate), else those of the batch.
        """
        negative = negative or {}
        rated = [embedder.input_key for embedder in self.parts if embedder.ucg_rate > 0]
        zeroed = set(rated or [embedder.input_key for embedder in self.parts]) - set(negative)
        return Conditioning(*self.get_unconditional_conditioning(batch, {**batch, **negative}, zeroed))

    def get_unconditional_conditioning(
            self, batch: Mapping, batch_uc: Mapping | None = None,
            force_uc_zero_embeddings: Collection[str] | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the two halves of a batch's conditioning, called as the release calls it; see `conditioning`.

        The unconditional half embeds `batch_uc`, with zeros for input keys in `force_uc_zero_embeddings`. With neither
        it would equal the conditional one, so that it is that of `conditioning` then.
        """
        if batch_uc is None and force_uc_zero_embeddings is None:
            both = self.conditioning(batch)
            return dict(both.cond), dict(both.half(unconditional=True))
        zeroed = force_uc_zero_embeddings or ()
        cond = self._embed(batch, (), drop=False)
        if all(embedder.input_key in zeroed for embedder in self.parts):  # nothing to encode
            return cond, {key: torch.zeros_like(value) for key, value in cond.items()}
        return cond, self._embed(batch if batch_uc is None else batch_uc, zeroed, drop=False)

    def _embed(self, batch: Mapping, zeroed: Collection[str], drop: bool) -> dict[str, Tensor]:
        output: dict[str, Tensor] = {}
        for embedder in self.parts:
            with torch.set_grad_enabled(torch.is_grad_enabled() and embedder.is_trainable):
                embedded = embedder(batch[embedder.input_key])
            for emb in embedded if isinstance(embedded, list | tuple) else [embedded]:
                if emb.dim() not in KEY_OF_NDIM:
                    raise ValueError(f"{type(embedder).__name__} returned a {emb.dim()}-dimensional tensor; "
                                     f"supported dimensions are {sorted(KEY_OF_NDIM)}")
                if drop and embedder.ucg_rate > 0:
                    emb = _drop_examples(emb, embedder.ucg_rate)
                if embedder.input_key in zeroed:
                    emb = torch.zeros_like(emb)
                key = KEY_OF_NDIM[emb.dim()]
                output[key] = torch.cat((output[key], emb), AXIS_OF_KEY[key]) if key in output else emb
        return output


def _drop_examples(emb: Tensor, rate: float) -> Tensor:
    keep = torch.bernoulli(torch.full((emb.shape[0],), 1 - rate, device=emb.device))
    return emb * keep.to(emb).view(-1, *[1] * (emb.dim() - 1))


def _build_embedder(config: Mapping, index: int) -> AbstractEmbModel:
    built = {k: config[k] for k in ("target", "params") if k in config}
    embedder = instantiate_from_config(built)
    where = f"emb_models[{index}]"
    if not isinstance(embedder, AbstractEmbModel):
        raise ConfigError(f"{where}: {config['target']} is not an embedder; derive it from AbstractEmbModel")
    if "input_key" not in config:
        raise ConfigError(f"{where}: input_key is missing; name the entry of the batch to embed, such as txt")
    embedder.input_key = config["input_key"]
    embedder.ucg_rate = float(config.get("ucg_rate", 0.0))
    embedder.is_trainable = bool(config.get("is_trainable", False))
    if not embedder.is_trainable:
        embedder.eval().requires_grad_(False)
    return embedder
