"""`make study`: what the product says of the demo's model, measured, and written to docs/fidelity.md."""
