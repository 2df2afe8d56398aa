"""In: each module here looks at one thing outside and reports the facts it sees."""
