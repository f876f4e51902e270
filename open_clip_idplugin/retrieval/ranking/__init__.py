"""Vectors and faces become rows, best first."""
