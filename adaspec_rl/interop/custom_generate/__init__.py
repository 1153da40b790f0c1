"""Our decoding behind transformers' `generate`, by its argument `custom_generate`."""
