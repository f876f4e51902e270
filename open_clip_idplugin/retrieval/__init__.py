"""Retrieval through clip-retrieval: images -> embeddings -> index -> search service.

The only part of the package that imports clip_retrieval, faiss, autofaiss and flask.
"""

import warnings

# Printed by every command otherwise: a package that clip-retrieval imports uses a deprecated module.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated", module=r"clip\.clip")
