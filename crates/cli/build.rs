//! Links `hsh` at a fixed address: a position-independent program has 15,000 addresses to write at each start, which costs
//! a short script more than its run. The daemons, which face the network, stay position-independent.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-link-arg-bin=hsh=-no-pie");
    }
}
