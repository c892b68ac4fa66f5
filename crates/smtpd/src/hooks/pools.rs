//! The pools of a process by name, from `threads.scripts`, `servers[].threads.script` and `queues.threads.script` of the
//! startup file.

use crate::hooks::pool::Pool;
use config::startup::{ScriptPool, Startup};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Where the hooks of servers run unless they name another pool.
pub const DEFAULT: &str = "_default";

/// Where the hooks of the queue run.
pub const QUEUES: &str = "_queues";

/// Scripts begun and not ended in a pool, unless it says otherwise.
const SCRIPTS_MAX: u32 = 1000;

/// All pools.
pub struct Pools {
    named: BTreeMap<String, Arc<Pool>>,
    /// Of servers with a size of their own.
    servers: HashMap<String, Arc<Pool>>,
}

impl Pools {
    /// The pools of a startup file; the two that always exist among them.
    pub fn new(startup: &Startup) -> Pools {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let places = |size: Option<u32>| size.map_or(cores * 2, |size| size as usize).clamp(1, 512);
        let new = |pool: &ScriptPool| {
            Pool::new(&pool.id, places(pool.size), pool.maxscripts.unwrap_or(SCRIPTS_MAX))
        };
        let mut named: BTreeMap<String, Arc<Pool>> =
            startup.threads.scripts.iter().map(|pool| (pool.id.clone(), new(pool))).collect();
        for (id, size) in [(DEFAULT, None), (QUEUES, startup.queues.threads.script)] {
            named.entry(id.to_owned()).or_insert_with(|| Pool::new(id, places(size), SCRIPTS_MAX));
        }
        let servers = startup.servers.iter().filter_map(|server| {
            let size = server.threads.script?;
            Some((server.id.clone(), Pool::new(DEFAULT, places(Some(size)), SCRIPTS_MAX)))
        });
        Pools { named, servers: servers.collect() }
    }

    /// The pool of a phase: the one that it names, else the server's own, else the default.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn of_phase(&self, server: &str, threadid: Option<&str>) -> Result<&Arc<Pool>, String> {
        match threadid {
            None => match self.servers.get(server) {
                Some(own) => Ok(own),
                None => self.named(DEFAULT),
            },
            Some(id) => self.named(id),
        }
    }

    /// The pool of the queue's hooks.
    ///
    /// # Errors
    /// Never: it always exists.
    pub fn of_queue(&self) -> Result<&Arc<Pool>, String> {
        self.named(QUEUES)
    }

    /// All pools that have a name, by it.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.named.values()
    }

    fn named(&self, id: &str) -> Result<&Arc<Pool>, String> {
        self.named.get(id).ok_or_else(|| {
            let near = config::validate::suggestion(id, self.named.keys().map(String::as_str));
            format!("no pool '{id}' in threads.scripts of the startup configuration{near}")
        })
    }
}
