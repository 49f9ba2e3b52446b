"""Loss functions of preference and reward learning; torch alone."""
