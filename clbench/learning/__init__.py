"""What a method is handed: the learner, its phases of training, a replay memory, importance of weights."""
