"""Checks of samplers, schedules and guiders against problems with exact answers; `benchmarks.check_sampler` runs them.
"""
