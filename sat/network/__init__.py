"""The diffusion transformer: blocks, attention, positions, embeddings, LoRA layers, step cache."""
