"""Questions about images with their gold answers, and where they come from."""

from vtagent.training.data.examples import Domain, Example, read_jsonl, rendered

__all__ = ["Domain", "Example", "read_jsonl", "rendered"]
