//! `-P`: the identity that the startup file names.

use config::startup::PrivDrop;
use nix::unistd::{Gid, Group, Uid, User, initgroups, setgid, setuid};
use std::ffi::CString;

/// Becomes the user and group of the startup file.
///
/// # Errors
/// There is no such user or group, or the program may not become it, as a message.
pub fn drop_rights(identity: Option<&PrivDrop>) -> Result<(), String> {
    let Some(name) = identity.and_then(|i| i.user.as_ref()) else {
        return Err("-P: no startup file with /environment/privdrop/user".into());
    };
    let user = User::from_name(name)
        .map_err(|error| format!("/environment/privdrop/user: {error}"))?
        .ok_or_else(|| format!("/environment/privdrop/user: no user \"{name}\" on this system"))?;
    let gid = match identity.and_then(|i| i.group.as_ref()) {
        None => user.gid,
        Some(group) => Group::from_name(group)
            .map_err(|error| format!("/environment/privdrop/group: {error}"))?
            .map(|group| group.gid)
            .ok_or_else(|| format!("/environment/privdrop/group: no group \"{group}\" on this system"))?,
    };
    if Uid::effective() == user.uid && Gid::effective() == gid {
        return Ok(());
    }
    let failed = |what: &str, error: nix::Error| format!("-P: {what}: {error} (it needs to be run as root)");
    let c_name =
        CString::new(name.as_str()).map_err(|_| "/environment/privdrop/user: NUL in name".to_owned())?;
    initgroups(&c_name, gid).map_err(|error| failed("groups", error))?;
    setgid(gid).map_err(|error| failed("setgid", error))?;
    setuid(user.uid).map_err(|error| failed("setuid", error))
}
