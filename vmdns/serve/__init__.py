"""Sockets: the DNS server, the forwarder and the control channel."""
