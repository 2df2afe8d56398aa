"""Multicast DNS on the host's links."""
