"""Exact attention capture for SGLang: definition, capture, plugin, and a platform for machines without a GPU."""
