"""Plan and place surgeries: edits, slots, claims, journal, and the contracts of plugins."""
