"""Checks: what must hold after an operation, each passed, failed or listed as skipped."""
