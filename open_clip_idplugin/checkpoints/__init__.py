"""A model name and a checkpoint become a loaded model; and what is written about a model and passed on."""
