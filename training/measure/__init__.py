"""Measuring a policy: modes, outcomes, bootstrap intervals, summaries, tables and plots."""
