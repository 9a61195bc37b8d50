"""Weights that come with vtagent: `base` and `zoom`. What they can do, and cannot, is in each folder's README.md."""
