"""Writers of layered files, one module a format."""
