"""Training of the video transformer: data prepared once, the loop, and what a run leaves behind."""
