"""Text to tensors: prompts and targets as token ids, each text tokenised once, and batches of them."""
