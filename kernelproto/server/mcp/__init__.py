"""The Model Context Protocol for the users of the server; needs the extra ``mcp``."""
