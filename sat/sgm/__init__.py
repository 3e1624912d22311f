"""Network-independent diffusion code: schedules, denoisers, guidance, samplers, losses, configuration."""
