"""The server as a program. Only this folder imports uvicorn."""
