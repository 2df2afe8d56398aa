"""Commands that do more than ask the running server."""
