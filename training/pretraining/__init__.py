"""Pretrains the bundled policy on rendered pages: model, curriculum, packed sequences, and a fast forward pass."""
