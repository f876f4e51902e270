"""`idclip faces`: all faces of a picture collection, found, embedded and written as one table."""
