"""The policy before reinforcement learning: its architecture, its lessons, and a fast forward pass over equal pages."""
