"""Tests mirror the package."""

from pathlib import Path

PROJECT = Path(__file__).parents[1]
