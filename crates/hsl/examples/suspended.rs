//! Suspends many executions at once, each in a native call inside a function of a hook-like script, and prints what
//! memory each takes: `cargo run --release -p hsl --example suspended [COUNT]`.

use hsl::{Array, Compiler, FunctionDef, Limits, NoHost, Outcome, Registry, Shared, Step, Value, Vm};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

const SCRIPT: &str = r#"
    function lookup($name, $type = "A") {
        $key = "$name/$type";
        $answer = wait($key);
        return ["key" => $key, "answer" => $answer];
    }
    function check($ip, $sender) {
        $parts = ["ip" => $ip, "sender" => $sender, "domain" => "example.com"];
        $result = lookup($parts["domain"] . "." . $parts["ip"]);
        return $result["answer"] == $result["key"];
    }
    $ip = $arguments["remoteip"];
    $sender = "someone-with-a-name@example.com";
    $count = 0;
    if (check($ip, $sender)) $count += 1;
    return $count;
"#;

/// Resident memory of this process, bytes.
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? << 10)
}

fn main() {
    let count: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(50_000);
    let mut registry = Registry::new();
    registry.add_function(FunctionDef::full("wait(x: any)", "", |_, mut a| {
        let x = a.take(0);
        Ok(Outcome::Pending(Box::pin(async move { Ok(x) })))
    }));
    let compiler = Compiler::new(Arc::new(registry)).context_variable("arguments", true);
    let program = compiler.compile("hook.hsl", SCRIPT.as_bytes()).expect("the script is correct").program;
    let shared = Arc::new(Shared::new());
    let mut waiting = Vec::with_capacity(count);
    let before = resident_bytes();
    let begun = std::time::Instant::now();
    for i in 0..count {
        let mut vm = Vm::new(Arc::clone(&program), Arc::clone(&shared), Limits::default(), Box::new(NoHost));
        let mut arguments = Array::new();
        arguments.insert_str("remoteip", Value::from(format!("192.0.2.{}", i % 256)));
        vm.set_variable("arguments", arguments.into());
        let Step::Pending(future) = vm.run(1000) else { panic!("the script waits") };
        waiting.push((vm, future));
    }
    let each = |begun: std::time::Instant| begun.elapsed().as_nanos() / count.max(1) as u128;
    println!("started and suspended in {} ns each", each(begun));
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let bytes = after.saturating_sub(before);
        println!("{count} suspended scripts: {} MiB, {} bytes each", bytes >> 20, bytes / count.max(1));
    }
    let begun = std::time::Instant::now();
    for (mut vm, mut future) in waiting {
        let ready = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(result) = ready else { panic!("the future is ready") };
        vm.resume(result);
        let Step::Done(Value::Number(1.0)) = vm.run(1000) else { panic!("the script ends with 1") };
    }
    println!("resumed and ended in {} ns each", each(begun));
}
