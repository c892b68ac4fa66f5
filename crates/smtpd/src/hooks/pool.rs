//! Places for scripts: a pool has some for those that compute past their first slice, and some for those that are begun
//! and not ended. Who waits is let in by priority, then in the order of arrival.

use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where scripts run.
#[derive(Debug)]
pub struct Pool {
    id: String,
    /// For scripts that compute.
    pub running: Arc<Places>,
    /// For scripts that are begun, those that wait for the network among them.
    pub begun: Arc<Places>,
}

impl Pool {
    /// So many scripts that compute at once, and that are begun.
    pub fn new(id: &str, running_max: usize, begun_max: u32) -> Arc<Pool> {
        let (running, begun) = (Places::new(running_max), Places::new(begun_max as usize));
        Arc::new(Pool { id: id.to_owned(), running, begun })
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A number of places.
#[derive(Debug)]
pub struct Places {
    size: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    arrivals: u64,
    /// Higher priority first, then the earlier arrival.
    waiting: BTreeMap<(Reverse<i64>, u64), oneshot::Sender<Place>>,
}

/// A place, given on when dropped.
#[derive(Debug)]
pub struct Place(Option<Arc<Places>>);

impl Places {
    fn new(size: usize) -> Arc<Places> {
        let state = State { free: size, arrivals: 0, waiting: BTreeMap::new() };
        Arc::new(Places { size, state: Mutex::new(state) })
    }

    /// All places.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Places taken.
    pub fn taken(&self) -> usize {
        self.size - self.state.lock().free
    }

    /// Who waits for a place.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// A place, if one is free.
    pub fn try_enter(self: &Arc<Places>) -> Option<Place> {
        let mut state = self.state.lock();
        state.free = state.free.checked_sub(1)?;
        Some(Place(Some(self.clone())))
    }

    /// Waits for a place.
    pub async fn enter(self: &Arc<Places>, priority: f64) -> Place {
        loop {
            let waiting = {
                let mut state = self.state.lock();
                if state.free > 0 {
                    state.free -= 1;
                    return Place(Some(self.clone()));
                }
                let (sender, receiver) = oneshot::channel();
                let arrival = state.arrivals;
                state.arrivals += 1;
                state.waiting.insert((Reverse(rank(priority)), arrival), sender);
                receiver
            };
            // The places live as long as we hold them, so a sender is only lost to a place that was taken back.
            if let Ok(place) = waiting.await {
                return place;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(places) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = places.state.lock();
                match state.waiting.pop_first() {
                    Some((_, sender)) => sender,
                    None => {
                        state.free += 1;
                        return;
                    }
                }
            };
            match next.send(Place(Some(places.clone()))) {
                Ok(()) => return,
                // Who waited there is gone: the next one.
                Err(mut unused) => unused.0 = None,
            }
        }
    }
}

/// A whole number in the order of the priorities.
fn rank(priority: f64) -> i64 {
    let bits = priority.to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_keep_the_order() {
        let list = [f64::NEG_INFINITY, -2.5, -1.0, 0.0, 0.5, 1.0, 1e9];
        assert!(list.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
    }

    #[tokio::test]
    async fn higher_priority_first_then_first_come() {
        let pool = Places::new(1);
        let held = pool.enter(0.0).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (name, priority) in [("a", 0.0), ("b", 5.0), ("c", 0.0), ("gone", 9.0), ("d", 5.0), ("e", -1.0)] {
            let (entered, order) = (pool.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let place = entered.enter(priority).await;
                order.lock().push(name);
                drop(place);
            }));
            while pool.state.lock().waiting.len() < tasks.len() {
                tokio::task::yield_now().await;
            }
        }
        tasks.remove(3).abort();
        tokio::task::yield_now().await;
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), ["b", "d", "a", "c", "e"]);
        assert_eq!(pool.state.lock().free, 1);
    }
}
