"""Published datasets, from the layouts in which they are distributed to manifests.

`flowbind prepare NAME`: a module per dataset; each has a function `prepare` that is registered
under the dataset's name.
"""
