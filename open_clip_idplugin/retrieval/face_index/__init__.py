"""Faces joined to the rows of an index."""
