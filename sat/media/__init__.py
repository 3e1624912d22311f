"""Images and clips in, videos and records out."""
