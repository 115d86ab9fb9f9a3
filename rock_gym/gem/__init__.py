"""GEM inside sandboxes: the ids it ships, the wire, and what runs at both of its ends."""
