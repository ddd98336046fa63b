"""Pages on loopback for people: a door with two factors, sessions, what a browser is held to; docs/operations.md."""
