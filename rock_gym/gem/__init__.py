"""GEM inside sandboxes: the ids it ships, what is said over the wire, and both ends of that wire."""
