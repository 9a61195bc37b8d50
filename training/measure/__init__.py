"""What is measured and how it is shown: modes of looking, outcomes, bootstrap intervals, summaries, tables, plots."""
