"""Diffusion parts that know nothing of the network: schedules, denoisers, guidance, samplers, losses, configuration."""
