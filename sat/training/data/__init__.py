"""Training data: sources of clips, caches of latents and text embeddings, batches."""
