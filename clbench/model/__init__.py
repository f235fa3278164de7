"""The frozen backbone, and what can be put on it: LoRA, rank blocks, soft prompts."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which peft imports, and which reports kernels that it lacks
