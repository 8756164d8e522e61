"""How a dataset zip may be laid out, one module a layout; `detect` chooses among them."""
