"""The verb `idclip open`: folders of pictures and of people -> an index, its faces, a gallery, and a page to search them."""
