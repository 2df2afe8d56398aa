"""Typed wrappers of Windows APIs that neither Python nor its libraries have. Loaded on Windows only, and no policy."""
