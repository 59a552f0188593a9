"""One command a claim: each benchmark first checks that the fast answer is right, then measures it beside its peer."""
