//! Settings: flags > `SIGIL_*` > `sigil.toml` > defaults.
