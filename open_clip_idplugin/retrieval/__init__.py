"""Retrieval through clip-retrieval: images -> embeddings -> index -> search service.

The only part of the package that imports clip_retrieval, faiss, autofaiss and flask.
"""
