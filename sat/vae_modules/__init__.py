"""The causal 3D autoencoder and what it is trained with."""
