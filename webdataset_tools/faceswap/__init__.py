"""Face swaps: COCO pictures of one person and photos of identities -> a COCO-PFS release (`idclip swap`)."""
