"""Packets: UDP, TCP, the answer cache, rate limits and the forwarder."""
