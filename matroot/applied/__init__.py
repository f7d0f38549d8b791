"""A^s B without A^s: shifted systems (A + t I) X = B, solved by factorization or by Lanczos, and what they certify."""
