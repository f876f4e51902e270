"""Recipes of training side by side (`make bench`): several seeds, evaluated on validation and test."""
