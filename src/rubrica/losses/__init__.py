"""Loss functions on tensors: the equation and its source beside the code; nothing of ours is imported."""
