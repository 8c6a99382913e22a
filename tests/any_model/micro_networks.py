"""All micro networks: NETWORKS, in the order they were written."""
import micro_conv  # noqa: F401  (registers)
import micro_blocks  # noqa: F401
import micro_programs  # noqa: F401
import micro_statistics  # noqa: F401
import micro_weights  # noqa: F401
import micro_attention  # noqa: F401
import micro_heads  # noqa: F401
import micro_stacks  # noqa: F401
import micro_streams  # noqa: F401
from micro_base import NETWORKS, Micro  # noqa: F401
