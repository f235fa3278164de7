"""Numbers that papers published, one TOML file a source; `clbench.ledger` reads and checks them."""
