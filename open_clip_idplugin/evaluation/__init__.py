"""Evaluation: a model and a set of images with known people in, retrieval metrics and tables out."""
