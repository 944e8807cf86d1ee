"""Official checkpoints: one file per format, key by key."""
