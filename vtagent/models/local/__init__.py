"""The engine that runs checkpoints in this process: one batch for all concurrent requests, with reuse of KV and images."""
