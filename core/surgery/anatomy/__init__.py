"""What a model is made of: sites, roles and selections."""
