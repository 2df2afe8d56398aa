"""The machine vmdns runs on: its name servers, its folders, who holds a port."""
