"""What can go wrong between a tokenizer and its model, and how to see it."""
