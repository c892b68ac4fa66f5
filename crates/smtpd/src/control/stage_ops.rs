//! Live stage, and checks of configurations that are not in force.

use crate::daemon::Daemon;
use crate::info;
use crate::stage::{Conditions, Deployment, Stage};
use bytes::Bytes;
use control::server::{Answer, Peer, parse, payload};
use control::smtpd as wire;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Longest name of a stage, octets; every message that it brings in carries it.
const ID_BYTES_MAX: usize = 255;

pub(super) async fn deploy(daemon: &Arc<Daemon>, peer: &Peer, body: &[u8]) -> Answer {
    let request: wire::ConfigGreenDeployRequest = parse(body)?;
    if request.id.is_empty() || request.id.len() > ID_BYTES_MAX || request.id.chars().any(char::is_control) {
        return Err(format!("A live stage needs an id of 1 to {ID_BYTES_MAX} printable bytes"));
    }
    let conditions = conditions(&request.conditions.unwrap_or_default())?;
    let bound_to = request.connectionbound.then(|| peer.clone());
    let deployment = Deployment { id: request.id.clone(), conditions, config: request.config, bound_to };
    let to = daemon.clone();
    let deployed = tokio::task::spawn_blocking(move || to.generations.deploy(deployment)).await;
    deployed.map_err(|error| error.to_string())?.map_err(|errors| errors.join("; "))?;
    info!("", "live stage {} started", request.id);
    Ok(Bytes::new())
}

fn conditions(wire: &wire::ConfigGreenConditions) -> Result<Conditions, String> {
    let network = |text: &String| {
        let single = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        single.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
            format!("'{text}' is no address or network, expected one like 192.0.2.1 or 2001:db8::/32")
        })
    };
    let share = f64::from(wire.probability);
    if !(0.0..=1.0).contains(&share) {
        return Err(format!("The probability is {share}, expected more than 0 and at most 1"));
    }
    Ok(Conditions {
        clients: wire.remoteips.iter().map(network).collect::<Result<_, _>>()?,
        servers: wire.serverids.clone(),
        // Nothing on the wire tells zero from absent.
        probability: (share > 0.0).then_some(share),
        time: (wire.time > 0).then(|| Duration::from_secs(wire.time)),
        count: (wire.count > 0).then_some(wire.count),
    })
}

/// The stage; nothing when there is none.
pub(super) fn status(daemon: &Daemon) -> Bytes {
    let Some(stage) = daemon.generations.stage() else { return Bytes::new() };
    let of = stage.conditions();
    payload(&wire::ConfigGreenStatusResponse {
        id: stage.id().to_string(),
        expired: stage.is_expired(),
        time: stage.age().as_secs(),
        count: stage.connections(),
        conditions: (*of != Conditions::default()).then(|| wire::ConfigGreenConditions {
            remoteips: of.clients.iter().map(shown).collect(),
            serverids: of.servers.clone(),
            probability: of.probability.unwrap_or_default() as f32,
            time: of.time.map_or(0, |time| time.as_secs()),
            count: of.count.unwrap_or_default(),
        }),
    })
}

fn shown(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

pub(super) fn cancel(daemon: &Daemon) -> Answer {
    let Some(id) = daemon.generations.cancel_stage() else { return Err("No live stage".to_owned()) };
    info!("", "live stage {id} cancelled");
    Ok(Bytes::new())
}

/// The oldest hit of a logpoint of the stage; nothing when there is none.
pub(super) fn logpoint(daemon: &Daemon, body: &[u8]) -> Answer {
    let request: wire::HslBreakPointRequest = parse(body)?;
    let Some(stage) = daemon.generations.stage() else { return Err("No live stage".to_owned()) };
    let hit = stage.debugger().take_hit(&request.debugid);
    Ok(hit.as_ref().map_or_else(Bytes::new, payload))
}

/// The stage that this connection debugs.
fn debugged(daemon: &Daemon, peer: &Peer) -> Result<Arc<Stage>, String> {
    let stage = daemon.generations.stage().filter(|stage| stage.is_bound_to(peer.connection));
    stage.ok_or_else(|| "No live stage was started by this connection".to_owned())
}

/// Waits for a script of the stage to stop.
pub(super) async fn next_stop(daemon: &Daemon, peer: &Peer) -> Answer {
    // Not the stage itself: it has to be free to end meanwhile.
    let debugger = debugged(daemon, peer)?.debugger().clone();
    debugger.next_stop().await.map(|hit| payload(&hit)).map_err(str::to_owned)
}

/// Lets the script go on whose stop was shown.
pub(super) fn go_on(daemon: &Daemon, peer: &Peer) -> Answer {
    if debugged(daemon, peer)?.debugger().go_on() {
        Ok(Bytes::new())
    } else {
        Err("No breakpoint".to_owned())
    }
}

/// Compiles a running configuration without using it.
pub(super) async fn check(daemon: &Arc<Daemon>, body: &[u8]) -> Answer {
    let request: wire::ConfigCheckRequest = parse(body)?;
    if request.file() != wire::config_get_request::File::App {
        return Err("Only running configurations (type app) can be checked in this version".to_owned());
    }
    let on = daemon.clone();
    let checked = tokio::task::spawn_blocking(move || on.generations.check(&request.config)).await;
    let errors = checked.map_err(|error| error.to_string())?.err().unwrap_or_default();
    let error = |message| wire::config_check_response::Error { message, ..Default::default() };
    Ok(payload(&wire::ConfigCheckResponse { errors: errors.into_iter().map(error).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_checked() {
        let wire = |ip: &str, probability| wire::ConfigGreenConditions {
            remoteips: vec![ip.to_owned()],
            probability,
            ..Default::default()
        };
        for (ip, text) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("2001:db8::1/128", "2001:db8::1"),
        ] {
            let read = conditions(&wire(ip, 0.5)).unwrap();
            assert_eq!(shown(&read.clients[0]), text);
            assert_eq!(read.probability, Some(0.5));
        }
        assert_eq!(conditions(&wire("::1", 0.0)).unwrap().probability, None);
        for (ip, share) in
            [("192.0.2.0/33", 0.5), ("mx", 0.5), ("", 0.5), ("::1", 1.5), ("::1", -0.1), ("::1", f32::NAN)]
        {
            assert!(conditions(&wire(ip, share)).is_err(), "{ip} {share}");
        }
    }
}
