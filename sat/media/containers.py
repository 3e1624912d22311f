"""The kinds of video files that are read, recognised by their first bytes before any decoder opens them."""

# What a file of training data may be called. The bytes inside decide what it is.
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".gif", ".ts", ".m2ts", ".mts",
                  ".mpg", ".mpeg", ".vob", ".ogv", ".flv", ".wmv", ".asf", ".mxf")
