"""Layers that should be cut and are not yet: network -> layers. The test says when one can go."""
PENDING = {}
