"""Printed pages that we render: what stands on them, and how they look."""
