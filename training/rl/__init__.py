"""Reinforcement learning over the compiled graph: runs become rows of a trainer, token by token as sampled."""
