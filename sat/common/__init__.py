"""Helpers without a subject of their own: errors, files, console, ranks, tensors, fast CPU operations."""
