//! Limits and identity of the process.

use config::startup::Startup;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group, Uid, User, initgroups, setgid, setuid};
use std::ffi::CString;

/// Sets the open-file limit.
pub fn raise_limits(startup: &Startup) -> Result<(), String> {
    let Some(wanted) = startup.environment.rlimit.nofile else {
        // A busy server needs what the system is ready to give.
        if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
            && soft < hard
        {
            return setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
                .map_err(|error| format!("open-file limit: {error}"));
        }
        return Ok(());
    };
    setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
        .map_err(|error| format!("/environment/rlimit/nofile: cannot set {wanted}: {error}"))
}

/// Sets the umask and becomes the configured user and group.
pub fn drop_rights(startup: &Startup) -> Result<(), String> {
    let environment = &startup.environment;
    if let Some(mode) = environment.umask {
        umask(Mode::from_bits_truncate(mode.0));
    }
    let Some(name) = &environment.privdrop.user else { return Ok(()) };
    let user = User::from_name(name)
        .map_err(|error| format!("/environment/privdrop/user: {error}"))?
        .ok_or_else(|| format!("/environment/privdrop/user: no user \"{name}\" on this system"))?;
    let gid = match &environment.privdrop.group {
        None => user.gid,
        Some(group) => group_id(group, "/environment/privdrop/group")?,
    };
    if Uid::effective() == user.uid && Gid::effective() == gid {
        return Ok(());
    }
    let failed = |what: &str, error: nix::Error| {
        format!("/environment/privdrop: {what}: {error} (start as root, or remove the key)")
    };
    let c_name =
        CString::new(name.as_str()).map_err(|_| "/environment/privdrop/user: NUL in name".to_owned())?;
    initgroups(&c_name, gid).map_err(|error| failed("groups", error))?;
    setgid(gid).map_err(|error| failed("setgid", error))?;
    setuid(user.uid).map_err(|error| failed("setuid", error))
}

/// The number of a named group.
pub fn group_id(name: &str, pointer: &str) -> Result<Gid, String> {
    let group = Group::from_name(name).map_err(|error| format!("{pointer}: {error}"))?;
    group.map(|group| group.gid).ok_or_else(|| format!("{pointer}: no group \"{name}\" on this system"))
}

/// The number of a named user.
pub fn user_id(name: &str, pointer: &str) -> Result<Uid, String> {
    let user = User::from_name(name).map_err(|error| format!("{pointer}: {error}"))?;
    user.map(|user| user.uid).ok_or_else(|| format!("{pointer}: no user \"{name}\" on this system"))
}
