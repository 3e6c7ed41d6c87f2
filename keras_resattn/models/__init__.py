"""Networks: the variants table and the builders over it."""
