"""The same arithmetic in fewer operations; each file names what it replaces and the test that both agree."""
