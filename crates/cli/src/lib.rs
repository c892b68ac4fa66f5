//! The command-line tools: `halonctl`, `halonconfig`, `hsh`, `hsl-lint`.

pub mod halonconfig;
pub mod halonctl;
pub mod hsh;
pub mod lint;
pub mod table;

use config::startup::Pem;
use std::collections::HashMap;

/// What the library of scripts takes from a startup file and the keys of a running file.
///
/// # Errors
/// A file that it names cannot be used, as a message.
pub fn environment(
    startup: &config::Startup,
    running: &[config::app::PrivateKey],
) -> Result<hsl_std::Environment, String> {
    let given = &startup.environment;
    let mut environment = hsl_std::Environment {
        hostname: given.hostname.clone(),
        uuid_version: given.uuid.version,
        ffi: startup.scripting.ffi,
        ..Default::default()
    };
    environment.keys = keys(&startup.pki.private, running)?;
    if let Some(path) = &given.publicsuffix {
        environment.public_suffixes = Some(hsl_std::environment::read_public_suffixes(path)?);
    }
    if let Some(path) = &given.sockets.httprd.path {
        environment.httprd.clone_from(path);
    }
    if let Some(path) = &given.sockets.rated.path {
        environment.rated.clone_from(path);
    }
    Ok(environment)
}

/// The keys of both files. Those that this user may not read are left out: scripts that name them fail then.
///
/// # Errors
/// A key cannot be used, as a message.
pub fn keys(
    startup: &[config::startup::PrivateKey],
    running: &[config::app::PrivateKey],
) -> Result<HashMap<String, hsl_std::Credential>, String> {
    let closed = |pem: &Pem| match pem {
        Pem::Path(path) => {
            std::fs::File::open(path).is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
        }
        Pem::Data(_) => false,
    };
    let mut texts = HashMap::new();
    let mut left_out = Vec::new();
    for key in startup {
        if closed(&key.privatekey) {
            left_out.push(key.id.as_str());
            continue;
        }
        let read = key.read().map_err(|text| format!("/pki/private/{}: {text}", key.id))?;
        texts.insert(key.id.clone(), read);
    }
    let open = |key: &&config::app::PrivateKey| match &key.privatekey {
        Some(pem) => !closed(pem),
        None => !left_out.contains(&key.id.as_str()),
    };
    let running: Vec<_> = running.iter().filter(open).cloned().collect();
    let mut keys = HashMap::new();
    for (id, texts) in config::pki::merge(&texts, &running)? {
        let read = hsl_std::Credential::from_pem(&texts.key, texts.certificate.as_deref(), &texts.chain);
        let read = read.map_err(|text| format!("/pki/private/{id}: {text}"))?;
        keys.insert(id, read);
    }
    Ok(keys)
}
