"""One run, and many: the protocol, checkpoints, costs, saved learners, the dry run."""
