"""From facts to answers, as pure functions: names, addresses, views and the snapshot."""
