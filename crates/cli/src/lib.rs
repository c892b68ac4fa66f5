//! The command-line tools: `halonctl`, `halonconfig`, `hsh`, `hsl-lint`.

pub mod halonconfig;
pub mod halonctl;
pub mod hsh;
pub mod lint;
pub mod table;
