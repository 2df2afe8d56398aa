"""vmdns: the DNS that VirtualBox never had."""

__version__ = "0.1.0"
