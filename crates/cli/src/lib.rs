//! The command-line tools: `halonctl`, `halonconfig`, `hsh`, `hsl-lint`.
