"""Queries: texts and people -> vectors of any open_clip model; and how several scores of an image become one."""
