"""In other people's hands: transformers' `generate`, other engines' configurations and metrics.

Nothing heavy is imported before it is asked for.
"""
