"""What is fuzzed: each file states its one invariant in its first line, and holds it in `check(data)`."""
