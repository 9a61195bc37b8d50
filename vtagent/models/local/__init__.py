"""The engine that runs checkpoints in this process and computes concurrent requests in one batch."""
