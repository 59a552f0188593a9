"""The contracts of Attention Explorer: what a fingerprint is, how it travels, rests and is classified. No framework."""
