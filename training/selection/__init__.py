"""Questions chosen by what the policy itself can do with them at two resolutions."""
