"""HTTP around ranking: the app, people, access, fetching, server and page."""
