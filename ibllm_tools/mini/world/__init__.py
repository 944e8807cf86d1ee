"""The procedural world of the embedded model: things that have a look, a shape and a sound."""
