"""Recipes: read strictly, with every mistake at its place."""
