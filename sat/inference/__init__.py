"""From prompts to videos: sizes, prompts, jobs, starting clips, the sampling pipeline."""
