"""Training over the graph that serves: documents, pretraining, evaluation. Everything here is run as a module."""
