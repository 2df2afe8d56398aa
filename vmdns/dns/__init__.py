"""The DNS protocol: names, messages, zone files and caches as pure functions. Imports nothing else of vmdns."""
