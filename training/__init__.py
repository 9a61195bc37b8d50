"""Training over the graph that agents run: documents, pretraining, GRPO, evaluation. Each command is a module."""
