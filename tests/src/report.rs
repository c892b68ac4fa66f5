//! Delivery reports as others read them.

use crate::system_program;
use std::io::Write;
use std::process::{Command, Stdio};

/// Reads a report with Python's `email`: a parser that we did not write. `status` has a block for the message and one for
/// each recipient.
///
/// # Panics
/// When it is none that RFC 3464 allows.
pub fn read_report(content: &[u8]) -> serde_json::Value {
    const READER: &str = r#"
import email, email.policy, json, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
parts = list(m.iter_parts())
status = [dict((k.lower(), str(v)) for k, v in block.items()) for block in parts[1].get_payload()]
print(json.dumps({
  "type": m.get_content_type(), "report": m.get_param("report-type"), "header": {k.lower(): str(v) for k, v in m.items()},
  "parts": [p.get_content_type() for p in parts], "text": parts[0].get_content(), "status": status,
  "original": parts[2].as_string() if len(parts) > 2 else "", "defects": [str(d) for p in m.walk() for d in p.defects]}))
"#;
    let mut child = Command::new(system_program("python3"))
        .args(["-c", READER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    child.stdin.take().expect("it is piped").write_all(content).expect("python3 reads");
    let output = child.wait_with_output().expect("python3 ends");
    let text = String::from_utf8_lossy(content);
    assert!(output.status.success(), "{text}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["defects"], serde_json::json!([]), "{text}");
    assert_eq!(
        (&report["type"], &report["report"]),
        (&"multipart/report".into(), &"delivery-status".into()),
        "{text}"
    );
    assert_eq!(
        report["parts"],
        serde_json::json!(["text/plain", "message/delivery-status", "text/rfc822-headers"]),
        "{text}"
    );
    report
}
