"""Training: loop, optimization, run folders."""
