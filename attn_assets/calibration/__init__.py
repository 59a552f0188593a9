"""Zones earned by example: labelled prompts sent through the served model, and a scorer fitted to its attention."""
