"""The `tessera` command. Modules here import nothing heavy at their top: `tessera --help` and shell completion answer at once."""
