"""Selecting training questions by what the policy answers at low and at full resolution."""
