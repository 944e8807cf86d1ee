"""The stages of the paper: how the bind network and the language model are trained."""
