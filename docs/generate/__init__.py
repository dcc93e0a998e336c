"""Write the reference from what the code says of itself."""
