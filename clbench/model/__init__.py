"""The frozen backbone, and what can be put on it: LoRA, rank blocks, soft prompts."""
