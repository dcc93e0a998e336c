"""Plugins: what they may implement, how they are found, and what they offer."""
