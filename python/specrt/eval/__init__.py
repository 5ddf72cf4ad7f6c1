"""Measuring: step times, benchmarks, and the draft lengths that follow from them."""
