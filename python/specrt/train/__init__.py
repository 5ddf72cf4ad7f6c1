"""Training of drafters and of the demo models (extra `train`)."""
