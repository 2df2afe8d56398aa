"""Pure: names, facts, records, answers and wire bytes. Nothing here touches a socket, a file or a clock."""
