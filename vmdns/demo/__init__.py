"""A simulated VirtualBox, for `vmdns demo`, benchmarks and tests: it replaces the reader in the worker process."""
