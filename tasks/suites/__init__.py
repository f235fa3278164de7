"""The tables and figures of papers as suites of runs, one TOML file each; `clbench.reproduce` reads them."""
