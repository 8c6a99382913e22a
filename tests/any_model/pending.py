"""Layers that should be cut and are not yet: network -> layers. The test says when one can go."""
PENDING = {
    # A grouped convolution, a shuffle and a grouped convolution: blocks across blocks.
    "channel_shuffle": ("conv2",),
    # A factor computed from a buffer: only buffers that are read directly are cut along.
    "grad_mode_regions": ("fc1",),
}
