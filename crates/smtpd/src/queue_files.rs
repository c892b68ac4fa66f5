//! The three files of the active queue (policy, suspend, delivery): as they were read last, and what they say.
//!
//! They may name lists of the running configuration. When that is reloaded they are worked out again, each as it was read
//! last: a file that was edited since is for its own reload.

use crate::delivery::settings::Settings;
use crate::lists::Lists;
use crate::policies::{self, Read};
use config::Startup;
use config::policy::{DeliveryFile, Policy, Suspend};
use queue::{PolicySet, Suspension};
use std::path::PathBuf;
use std::sync::Arc;

/// Where they are.
#[derive(Clone, Debug)]
pub struct QueuePaths {
    /// Limits.
    pub policy: PathBuf,
    /// Suspensions.
    pub suspend: PathBuf,
    /// Delivery settings.
    pub delivery: PathBuf,
}

impl QueuePaths {
    /// Those of a startup file.
    #[must_use]
    pub fn of(startup: &Startup) -> QueuePaths {
        QueuePaths {
            policy: startup.policy_path(),
            suspend: startup.suspend_path(),
            delivery: startup.delivery_path(),
        }
    }
}

/// The files as they were read.
#[derive(Clone, Debug)]
pub struct QueueFiles {
    /// Limits.
    pub policy: Arc<Read<Policy>>,
    /// Suspensions.
    pub suspend: Arc<Read<Suspend>>,
    /// Delivery settings.
    pub delivery: Arc<Read<DeliveryFile>>,
}

/// What they say, with the lists that each of them sees.
#[derive(Debug)]
pub struct QueueRules {
    /// Limits.
    pub policies: (PolicySet, Lists),
    /// Suspensions.
    pub suspensions: (Vec<Suspension>, Lists),
    /// Delivery settings.
    pub delivery: Settings,
}

impl QueueFiles {
    /// Reads them; one that does not exist is an empty one.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn read(paths: &QueuePaths) -> Result<QueueFiles, Vec<String>> {
        Ok(QueueFiles {
            policy: Arc::new(policies::read(&paths.policy, config::validate::policy)?),
            suspend: Arc::new(policies::read(&paths.suspend, config::validate::suspend)?),
            delivery: Arc::new(policies::read(&paths.delivery, config::validate::delivery)?),
        })
    }

    /// What they say with the lists of the running configuration.
    ///
    /// # Errors
    /// Values that do not fit their fields, or a list that cannot be read.
    pub fn rules(&self, app: &Lists) -> Result<QueueRules, Vec<String>> {
        Ok(QueueRules {
            policies: policies::policies(&self.policy, app)?,
            suspensions: policies::suspensions(&self.suspend, app)?,
            delivery: Settings::of(&self.delivery, app)?,
        })
    }
}
