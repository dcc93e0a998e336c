"""The surgery ``tokens``: tokenizer, tables, ties, configuration and ids change together."""
