"""Durations that can be compared, and latency as a cost."""
