"""A page on which a model is tried: `flowbind demo`."""
