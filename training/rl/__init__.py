"""GRPO over the graph: rollouts, rewards of groups, the trainer, and the rollout log."""
