"""The flow: plan, apply, save and load, from a recipe or from Python."""
