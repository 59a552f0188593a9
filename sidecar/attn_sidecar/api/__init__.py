"""HTTP: a module a concept. Handlers stay thin; what they answer from is given to them."""
