"""Everything that reads and writes files: strict reading, atomic publishing, digests."""
