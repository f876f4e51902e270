"""The verb `idclip search`: a text and people -> results, on a terminal or as a page."""
