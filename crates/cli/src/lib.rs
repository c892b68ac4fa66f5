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
    environment.keys = keys(startup)?;
    if let Some(path) = &given.publicsuffix {
        environment.public_suffixes = Some(hsl_std::environment::read_public_suffixes(path)?);
    }
    if let Some(path) = &given.sockets.httprd.path {
        environment.httprd.clone_from(path);
    }
    Ok(environment)
}

/// The keys of a startup file. Those that this user may not read are left out: scripts that name them fail then.
fn keys(startup: &config::Startup) -> Result<std::collections::HashMap<String, hsl_std::Credential>, String> {
    let mut keys = std::collections::HashMap::new();
    for key in &startup.pki.private {
        let wrong = |text: String| format!("/pki/private/{}: {text}", key.id);
        if let config::startup::Pem::Path(path) = &key.privatekey
            && std::fs::File::open(path).is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
        {
            continue;
        }
        let (private, certificate, chain) = key.read().map_err(wrong)?;
        let read = hsl_std::Credential::from_pem(&private, certificate.as_deref(), &chain).map_err(wrong)?;
        keys.insert(key.id.clone(), read);
    }
    Ok(keys)
}
