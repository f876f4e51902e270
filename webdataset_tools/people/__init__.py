"""People of a collection: the verbs that group the faces of a face table and enroll named groups."""
