"""What a configuration decides: models built anew, and what differs between two of them."""
