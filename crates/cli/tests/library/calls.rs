//! Every function and method of the registration table is called by some script of these tests, which the table itself
//! tells: builds with debug assertions mark what is called.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

#[test]
fn everything_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("called");
    // The other tests of this program again, with every `hsh` adding to the list what its script has called.
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--skip", "everything_is_called"])
        .env("HSH_CALLED", &list)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the tests fail");
    let text = fs::read_to_string(&list).unwrap();
    let called: BTreeSet<&str> = text.lines().collect();
    let registry = hsl_std::registry();
    let table = hsl_std::docs::names(&registry);
    assert!(table.len() > 340, "{} entries", table.len());
    let idle: Vec<&String> = table.iter().filter(|name| !called.contains(&***name)).collect();
    assert!(idle.is_empty(), "called by no test: {idle:#?}");
}
