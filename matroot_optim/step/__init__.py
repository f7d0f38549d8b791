"""What a step computes from gradients and roots."""
