"""The report of `--plan`: the video, memory and time of a run, before anything is loaded."""
