//! `dns_query` against NSD with a signed zone, behind a validating unbound.

use crate::servers::{Server, expect, port, run};
use std::fs;
use std::process::Command;
use tempfile::TempDir;

const ZONE: &str = "\
$ORIGIN example.test.
$TTL 300
@ SOA ns.example.test. hostmaster.example.test. 7 3600 900 604800 60
@ NS ns.example.test.
@ MX 20 backup.example.test.
@ MX 10 mail.example.test.
@ TXT \"first \" \"second\"
@ CAA 0 issue \"ca.example.test\"
ns A 127.0.0.1
mail A 192.0.2.10
mail A 192.0.2.10
mail AAAA 2001:db8::10
backup A 192.0.2.20
www CNAME mail.example.test.
_smtp._tcp SRV 5 6 25 mail.example.test.
_25._tcp.mail TLSA 3 1 1 d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971
";

struct Names {
    folder: TempDir,
    /// The authoritative server.
    server: u16,
    /// The validating one in front of it.
    resolver: u16,
    _nsd: Server,
    _unbound: Server,
}

impl Names {
    fn start() -> Names {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let root = at.display();
        let (server, resolver) = (port(), port());
        let file = |name: &str, text: &str| fs::write(at.join(name), text).unwrap();
        file("signed.zone", ZONE);
        let plain = ZONE.replace("example.test", "plain.test");
        file("plain.zone", &plain);
        file("expired.zone", &ZONE.replace("example.test", "expired.test"));
        file(
            "reverse.zone",
            "$ORIGIN 2.0.192.in-addr.arpa.\n@ 300 SOA a. b. 1 1 1 1 60\n@ 300 NS a.\n10 300 PTR mail.plain.test.\n",
        );
        let mut anchors = String::new();
        for (zone, file, period) in [
            ("example.test", "signed.zone", &[][..]),
            ("expired.test", "expired.zone", &["-i", "20200101", "-e", "20200201"][..]),
        ] {
            let key = run("ldns-keygen", &["-a", "ECDSAP256SHA256", "-k", "-r", "/dev/urandom", zone], at);
            run("ldns-signzone", &[period, &[file, key.trim()][..]].concat(), at);
            anchors += &fs::read_to_string(at.join(format!("{}.ds", key.trim()))).unwrap();
        }
        file("anchors", &anchors);
        let zones: String = [
            ("example.test", "signed.zone.signed"),
            ("expired.test", "expired.zone.signed"),
            ("plain.test", "plain.zone"),
            ("2.0.192.in-addr.arpa", "reverse.zone"),
        ]
        .iter()
        .map(|(name, file)| format!("zone:\n  name: {name}\n  zonefile: {root}/{file}\n"))
        .collect();
        file(
            "nsd.conf",
            &format!(
                "server:\n  ip-address: 127.0.0.1@{server}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: {root}\n  \
                 database: \"\"\n  pidfile: {root}/nsd.pid\n  xfrdfile: {root}/xfrd\n  xfrdir: {root}\n  \
                 zonelistfile: {root}/zone.list\nremote-control:\n  control-enable: no\n{zones}"
            ),
        );
        let nsd = Server::start(Command::new("nsd").args(["-d", "-c"]).arg(at.join("nsd.conf")), server);
        let stubs: String = ["example.test", "expired.test", "plain.test", "2.0.192.in-addr.arpa"]
            .iter()
            .map(|zone| format!("stub-zone:\n  name: {zone}\n  stub-addr: 127.0.0.1@{server}\n"))
            .collect();
        file(
            "unbound.conf",
            &format!(
                "server:\n  interface: 127.0.0.1@{resolver}\n  port: {resolver}\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  \
                 directory: {root}\n  pidfile: {root}/unbound.pid\n  do-not-query-localhost: no\n  use-syslog: no\n  \
                 trust-anchor-file: {root}/anchors\n  module-config: \"validator iterator\"\n  \
                 local-zone: \"test.\" nodefault\n  local-zone: \"2.0.192.in-addr.arpa.\" nodefault\n  num-threads: 1\n\
                 remote-control:\n  control-enable: no\n{stubs}"
            ),
        );
        let mut unbound = Command::new("unbound");
        let unbound = Server::start(unbound.args(["-d", "-p", "-c"]).arg(at.join("unbound.conf")), resolver);
        Names { server, resolver, _nsd: nsd, _unbound: unbound, folder }
    }
}

#[test]
fn dns_queries() {
    let names = Names::start();
    let head = format!(
        "function q($host, $options = []) {{ return json_encode(dns_query($host, $options + [\"servers\" => \
         [\"127.0.0.1\"], \"port\" => {}])); }}\n$nsd = [\"servers\" => [\"127.0.0.1\"], \"port\" => {}];",
        names.resolver, names.server
    );
    let script = r#"
echo q("mail.example.test");
echo q("mail.example.test", ["type" => "aaaa"]);
echo q("example.test", ["type" => "mx"]);
echo q("example.test", ["type" => "mx", "extended_result" => true]);
echo q("example.test", ["type" => "txt"]);
echo q("www.example.test");
echo q("www.example.test", ["type" => "cname"]);
echo q("example.test", ["type" => "ns"]);
echo q("10.2.0.192.in-addr.arpa", ["type" => "ptr"]);
echo q("_smtp._tcp.example.test", ["type" => "srv", "extended_result" => true]);
echo q("example.test", ["type" => "soa", "extended_result" => true]);
echo q("_25._tcp.mail.example.test", ["type" => "tlsa", "extended_result" => true]);
echo q("example.test", ["type" => "caa", "extended_result" => true]);
echo q("mail.plain.test");
echo q("nosuch.plain.test");
echo q("mail.plain.test", ["type" => "mx"]);
echo q("nosuch.example.test");
echo q("nosuch.example.test");
echo q("mail.example.test", ["type" => "mx"]);
echo q("mail.expired.test");
echo json_encode(dns_query("other.example", $nsd)["error"]);
echo json_encode(dns_query("a.example", ["servers" => ["127.0.0.1"], "port" => 1, "timeout" => 1])["error"]);
echo json_encode(dns_query(str_repeat("a", 64) . ".example", $nsd)["error"]);
echo json_encode(dnsmx("plain.test", $nsd));
echo json_encode(dns("nosuch.plain.test", $nsd));
try { dns_query("a.example", ["type" => "hinfo"]); } catch ($e) { echo $e->message(); }
"#;
    expect(
        names.folder.path(),
        &(head + script),
        &[
            "{\"result\":[\"192.0.2.10\"],\"dnssec\":true}",
            "{\"result\":[\"2001:db8::10\"],\"dnssec\":true}",
            "{\"result\":[\"mail.example.test\",\"backup.example.test\"],\"dnssec\":true}",
            "{\"result\":[{\"ttl\":300,\"preference\":10,\"exchange\":\"mail.example.test\"},{\"ttl\":300,\
             \"preference\":20,\"exchange\":\"backup.example.test\"}],\"dnssec\":true}",
            "{\"result\":[\"first second\"],\"dnssec\":true}",
            "{\"result\":[\"192.0.2.10\"],\"dnssec\":true}",
            "{\"result\":[\"mail.example.test\"],\"dnssec\":true}",
            "{\"result\":[\"ns.example.test\"],\"dnssec\":true}",
            "{\"result\":[\"mail.plain.test\"],\"dnssec\":false}",
            "{\"result\":[{\"ttl\":300,\"priority\":5,\"weight\":6,\"port\":25,\"target\":\"mail.example.test\"}],\
             \"dnssec\":true}",
            "{\"result\":[{\"ttl\":300,\"mname\":\"ns.example.test\",\"rname\":\"hostmaster.example.test\",\
             \"serial\":7,\"refresh\":3600,\"retry\":900,\"expire\":604800,\"minimum\":60}],\"dnssec\":true}",
            "{\"result\":[{\"ttl\":300,\"usage\":3,\"selector\":1,\"mtype\":1,\
             \"data\":\"d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971\"}],\"dnssec\":true}",
            "{\"result\":[{\"ttl\":300,\"critical\":false,\"tag\":\"issue\",\"value\":\"ca.example.test\"}],\
             \"dnssec\":true}",
            "{\"result\":[\"192.0.2.10\"],\"dnssec\":false}",
            "{\"error\":\"NXDOMAIN\",\"dnssec\":false}",
            "{\"error\":\"NODATA\",\"dnssec\":false}",
            "{\"error\":\"NXDOMAIN\",\"dnssec\":true}",
            "{\"error\":\"NXDOMAIN\",\"dnssec\":true}",
            "{\"error\":\"NODATA\",\"dnssec\":true}",
            "{\"error\":\"SERVFAIL\",\"dnssec\":false}",
            "\"REFUSED\"",
            "\"TRY_AGAIN\"",
            "\"FORMERR\"",
            "[\"mail.plain.test\",\"backup.plain.test\"]",
            "[]",
            "dns_query() type 'hinfo' is unknown, expected one of a, aaaa, mx, txt, cname, ns, ptr, soa, srv, tlsa, caa",
        ],
    );
}
