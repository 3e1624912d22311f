"""Weights on disk: checkpoints, shards, the release's and diffusers' layouts, LoRA files."""
