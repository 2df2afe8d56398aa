"""The running server: starts, joins and stops all parts."""
