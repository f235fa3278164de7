"""The tables and figures of papers as suites of runs, one TOML file each; `clbench.suites_of_papers` reads them."""
