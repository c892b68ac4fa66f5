//! Live stage: a second configuration beside the running one for part of the new connections, and for the queue's work
//! on the messages that they bring in. There is at most one; it lives in memory only.

use crate::generation::{Generation, Generations};
use crate::hooks::script::Watched;
use control::server::Peer;
use debugger::Debugger;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Which connections a stage takes; all conditions have to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    /// Addresses of clients, as a PROXY header tells them; empty for all.
    pub clients: Vec<IpNet>,
    /// Ids of servers; empty for all.
    pub servers: Vec<String>,
    /// Share of the connections that fit otherwise; none for all of them.
    pub probability: Option<f64>,
    /// How long the stage takes connections.
    pub time: Option<Duration>,
    /// How many it takes.
    pub count: Option<u64>,
}

/// A connection that was just accepted.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<'a> {
    /// Its client.
    pub client: IpAddr,
    /// The server it came to.
    pub server: &'a str,
    /// A number from 0 to below 1, drawn for it.
    pub drawn: f64,
}

/// Takes connections by its conditions; the age of the stage is passed in.
#[derive(Debug)]
struct Door {
    conditions: Conditions,
    taken: AtomicU64,
}

impl Door {
    fn is_closed(&self, age: Duration) -> bool {
        self.conditions.time.is_some_and(|time| age >= time)
            || self.conditions.count.is_some_and(|count| self.taken.load(Relaxed) >= count)
    }

    /// Counts the connection if it is taken.
    fn takes(&self, newcomer: &Newcomer<'_>, age: Duration) -> bool {
        let conditions = &self.conditions;
        let client = newcomer.client.to_canonical();
        let fits = !self.is_closed(age)
            && (conditions.clients.is_empty() || conditions.clients.iter().any(|net| net.contains(&client)))
            && (conditions.servers.is_empty() || conditions.servers.iter().any(|id| id == newcomer.server))
            && conditions.probability.is_none_or(|share| newcomer.drawn < share);
        if !fits {
            return false;
        }
        let most = conditions.count.unwrap_or(u64::MAX);
        self.taken.fetch_update(Relaxed, Relaxed, |taken| (taken < most).then_some(taken + 1)).is_ok()
    }
}

/// A deployed configuration.
pub struct Stage {
    id: Arc<str>,
    generation: Arc<Generation>,
    door: Door,
    begun: Instant,
    /// The control connection whose end ends the stage.
    bound_to: Option<u64>,
    debugger: Arc<Debugger>,
}

impl Stage {
    /// Its name.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Where its break points are reported.
    pub fn debugger(&self) -> &Arc<Debugger> {
        &self.debugger
    }

    /// Whether this control connection debugs it.
    pub fn is_bound_to(&self, connection: u64) -> bool {
        self.bound_to == Some(connection)
    }

    /// Its configuration.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Whether it takes no further connections, for good.
    pub fn is_expired(&self) -> bool {
        self.door.is_closed(self.age())
    }

    /// Since its deployment.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.door.taken.load(Relaxed)
    }

    /// Which connections it takes.
    pub fn conditions(&self) -> &Conditions {
        &self.door.conditions
    }
}

/// A stage to come.
#[derive(Debug)]
pub struct Deployment {
    /// Its name.
    pub id: String,
    /// Which connections it takes.
    pub conditions: Conditions,
    /// The text of a running configuration.
    pub config: String,
    /// The control connection whose end ends the stage.
    pub bound_to: Option<Peer>,
}

/// The prefix of statements that are break points or logpoints.
const POINT: &str = "__debug";

impl Generations {
    /// Compiles a configuration and puts it beside the running one, in place of a stage of the same name or of one that
    /// has expired.
    ///
    /// # Errors
    /// The configuration is in error, or another stage is active.
    pub fn deploy(&self, deployment: Deployment) -> Result<(), Vec<String>> {
        let Deployment { id, conditions, config, bound_to } = deployment;
        self.check_place(&id)?;
        let debugger = Debugger::new();
        let bound = bound_to.as_ref().map(|peer| peer.connection);
        let has_points = config.contains(POINT);
        let watch = Watched { debugger: debugger.clone(), has_points, client: bound_to };
        let generation = Arc::new(self.compile_stage(&id, &config, watch)?);
        let door = Door { conditions, taken: AtomicU64::new(0) };
        let stage = Stage {
            id: id.as_str().into(),
            generation,
            door,
            begun: Instant::now(),
            bound_to: bound,
            debugger,
        };
        let mut place = self.stage.write();
        // Somebody else may have been faster.
        if let Some(other) = place.as_ref().filter(|other| is_in_the_way(other, &id)) {
            return Err(vec![already_active(other)]);
        }
        let previous = place.replace(Arc::new(stage));
        drop(place);
        end(previous);
        self.declare_metrics();
        Ok(())
    }

    fn check_place(&self, id: &str) -> Result<(), Vec<String>> {
        match self.stage.read().as_ref().filter(|other| is_in_the_way(other, id)) {
            Some(other) => Err(vec![already_active(other)]),
            None => Ok(()),
        }
    }

    /// The stage, if there is one.
    pub fn stage(&self) -> Option<Arc<Stage>> {
        self.stage.read().clone()
    }

    /// Ends the stage; its connections keep its configuration. Gives its name, if there was one.
    pub fn cancel_stage(&self) -> Option<Arc<str>> {
        let stage = self.stage.write().take();
        end(stage)
    }

    /// Ends the stage if it is bound to this control connection.
    pub fn control_closed(&self, connection: u64) -> Option<Arc<str>> {
        let stage = self.stage.write().take_if(|stage| stage.is_bound_to(connection));
        end(stage)
    }

    /// The configuration of a new connection, with the name of its stage.
    pub fn select(&self, client: IpAddr, server: &str) -> (Arc<Generation>, Option<Arc<str>>) {
        if let Some(stage) = &*self.stage.read()
            && stage.generation.servers.contains_key(server)
            && stage.door.takes(&Newcomer { client, server, drawn: rand::random() }, stage.age())
        {
            return (stage.generation.clone(), Some(stage.id.clone()));
        }
        (self.current(), None)
    }

    /// The configuration for work on a message that was accepted under a stage, or under none: that of the stage while it
    /// lives.
    pub fn of_message(&self, stage_id: &str) -> Arc<Generation> {
        if !stage_id.is_empty()
            && let Some(stage) = &*self.stage.read()
            && *stage.id == *stage_id
            && !stage.is_expired()
        {
            return stage.generation.clone();
        }
        self.current()
    }
}

/// Lets scripts that stand still go on; the name of the stage.
fn end(stage: Option<Arc<Stage>>) -> Option<Arc<str>> {
    let stage = stage?;
    stage.debugger.end("Aborted");
    Some(stage.id.clone())
}

fn is_in_the_way(other: &Stage, id: &str) -> bool {
    *other.id != *id && !other.is_expired()
}

fn already_active(other: &Stage) -> String {
    format!("Live stage '{}' is already active; cancel it first", other.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(conditions: Conditions) -> Door {
        Door { conditions, taken: AtomicU64::new(0) }
    }

    fn newcomer(client: &str, server: &'static str, drawn: f64) -> Newcomer<'static> {
        Newcomer { client: client.parse().unwrap(), server, drawn }
    }

    #[test]
    fn all_conditions_have_to_hold() {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let some = Conditions {
            clients: nets(&["192.0.2.0/24", "2001:db8::/32"]),
            servers: vec!["in".into()],
            probability: Some(0.25),
            ..Conditions::default()
        };
        for (client, server, drawn, taken) in [
            ("192.0.2.1", "in", 0.0, true),
            ("192.0.2.255", "in", 0.2499, true),
            ("::ffff:192.0.2.9", "in", 0.1, true),
            ("2001:db8::1", "in", 0.1, true),
            ("192.0.3.1", "in", 0.0, false),
            ("192.0.2.1", "out", 0.0, false),
            ("192.0.2.1", "in", 0.25, false),
        ] {
            let door = door(some.clone());
            let found = door.takes(&newcomer(client, server, drawn), Duration::ZERO);
            assert_eq!(found, taken, "{client} {server} {drawn}");
            assert_eq!(door.taken.load(Relaxed), u64::from(taken));
        }
        assert!(door(Conditions::default()).takes(&newcomer("::1", "x", 0.999), Duration::MAX));
    }

    #[test]
    fn time_and_count_end_a_stage() {
        let timed = door(Conditions { time: Some(Duration::from_secs(10)), ..Conditions::default() });
        assert!(timed.takes(&newcomer("::1", "x", 0.5), Duration::from_millis(9999)));
        assert!(!timed.is_closed(Duration::from_millis(9999)) && timed.is_closed(Duration::from_secs(10)));
        assert!(!timed.takes(&newcomer("::1", "x", 0.5), Duration::from_secs(10)));
        let counted = door(Conditions { count: Some(3), ..Conditions::default() });
        let taken = (0..9).filter(|_| counted.takes(&newcomer("::1", "x", 0.5), Duration::ZERO)).count();
        assert_eq!((taken, counted.is_closed(Duration::ZERO)), (3, true));
    }

    #[test]
    fn a_count_holds_between_threads() {
        let counted = door(Conditions { count: Some(1000), ..Conditions::default() });
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let took = counted.takes(&newcomer("::1", "x", 0.5), Duration::ZERO);
                        taken.fetch_add(u64::from(took), Relaxed);
                    }
                });
            }
        });
        assert_eq!(taken.load(Relaxed), 1000);
    }
}
