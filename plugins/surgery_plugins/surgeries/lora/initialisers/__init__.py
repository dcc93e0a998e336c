"""How adapters begin: drawn, decomposed from the weight, or from what the weight sees."""
