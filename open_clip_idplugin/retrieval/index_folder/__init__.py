"""What an index folder holds: its card, columns, vectors and removed rows; and how one takes another's place."""
