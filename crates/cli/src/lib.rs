//! The command-line tools: `halonctl`, `halonconfig`, `hsh`, `hsl-lint`.

pub mod halonconfig;
pub mod halonctl;
pub mod hsh;
pub mod lint;
pub mod table;

/// What the library of scripts takes from a startup file.
///
/// # Errors
/// A file that it names cannot be used, as a message.
pub fn environment(startup: &config::Startup) -> Result<hsl_std::Environment, String> {
    let given = &startup.environment;
    let mut environment = hsl_std::Environment {
        hostname: given.hostname.clone(),
        uuid_version: given.uuid.version,
        ffi: startup.scripting.ffi,
        ..Default::default()
    };
    if let Some(path) = &given.publicsuffix {
        environment.public_suffixes = Some(hsl_std::environment::read_public_suffixes(path)?);
    }
    if let Some(path) = &given.sockets.httprd.path {
        environment.httprd.clone_from(path);
    }
    Ok(environment)
}
