"""The engine for checkpoints on this machine."""
