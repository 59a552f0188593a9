"""`attn-sidecar doctor`: what could keep the sidecar from doing its work, and what to do about each."""
