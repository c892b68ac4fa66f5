//! Prints the program that an input of the target `run` stands for: `cargo run --example show FILE`.

fn main() {
    let path = std::env::args().nth(1).expect("usage: show FILE");
    let data = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    println!("{}", fuzz::generate::program(&data));
}
