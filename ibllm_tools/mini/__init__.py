"""The embedded default model: its procedural world, its recipe and its weights."""
