"""Authentication of the users of the server."""
