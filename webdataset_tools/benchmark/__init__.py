"""`idclip benchmark`: recipes trained with several seeds, evaluated on validation and test, and set side by side."""
