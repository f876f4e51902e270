"""Many people at once into the gallery: folders of photos, face regions written in photos, groups of a face table."""
