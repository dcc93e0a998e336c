"""Show results as text and as JSON values."""
