"""The built-in methods: one module a method, each found by `clbench.discovery`."""
