"""Show results as HTML that needs no network and runs no script."""
