"""One Function and one function per op: Tensors in, Tensors out."""
