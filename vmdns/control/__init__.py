"""The control channel: what commands ask of a running vmdns."""
