//! `smtpd-delivery.yaml`: what a transport is told to do otherwise for some next hops. It stands between the transport
//! and the options of `Try`.

use crate::lists::Lists;
use crate::policies::Read;
use crate::transport::{Transport, apply_tls, mode};
use config::policy::{DeliveryFile, DeliverySettings};
use net::tls::{Mode, Rules, TlsClient};
use queue::{Field, RetryInterval, RetrySchedule, Selection};
use std::collections::HashMap;

/// The settings of a file.
#[derive(Debug, Default)]
pub struct Settings {
    conditions: Vec<(Selection, DeliverySettings)>,
    default: DeliverySettings,
}

impl Settings {
    /// Those of a delivery file.
    ///
    /// # Errors
    /// Values that do not fit their fields, or a list that cannot be read.
    pub fn of(file: &Read<DeliveryFile>, app: &Lists) -> Result<Settings, Vec<String>> {
        let Some((name, file)) = file else { return Ok(Settings::default()) };
        Settings::new(file, app).map_err(|error| vec![format!("{name}: {error}")])
    }

    fn new(file: &DeliveryFile, app: &Lists) -> Result<Settings, String> {
        let lists = Lists::read(&file.lists, Some(app))?;
        let mut conditions = Vec::with_capacity(file.delivery.conditions.len());
        for (at, condition) in file.delivery.conditions.iter().enumerate() {
            let fields = condition.when.iter().map(|(name, values)| (*name, values));
            let when = lists.selector(&format!("/delivery/conditions/{at}/if"), fields)?;
            check_tls(&format!("/delivery/conditions/{at}/then"), &condition.then)?;
            conditions.push((Selection::new(&when), condition.then.clone()));
        }
        check_tls("/delivery/default", &file.delivery.default)?;
        Ok(Settings { conditions, default: file.delivery.default.clone() })
    }

    /// Whether there is anything to be changed.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
            && self.default.tls.is_none()
            && self.default.timeout.connect.is_none()
            && self.default.timeout.smtp.is_empty()
            && self.default.pooling.enabled.is_none()
            && !self.changes_retry()
    }

    fn changes_retry(&self) -> bool {
        let all = self.conditions.iter().map(|(_, settings)| settings).chain([&self.default]);
        all.into_iter().any(|settings| settings.retry.count.is_some() || settings.retry.intervals.is_some())
    }

    /// The settings that apply, most important first.
    fn matching<'s>(
        &'s self,
        value: &'s dyn Fn(Field) -> String,
    ) -> impl Iterator<Item = &'s DeliverySettings> {
        let conditions = self.conditions.iter().filter(move |(when, _)| when.matches(value));
        conditions.map(|(_, settings)| settings).chain([&self.default])
    }

    /// Changes a transport for an attempt with these field values.
    pub fn apply(&self, transport: &mut Transport, value: &dyn Fn(Field) -> String) {
        let matching: Vec<&DeliverySettings> = self.matching(value).collect();
        // From the least important to the most: the last one stays.
        for tls in matching.iter().rev().filter_map(|settings| settings.tls.as_ref()) {
            apply_tls(&mut transport.session_mut().tls, tls);
        }
        let mut blocks = matching.iter().filter_map(|settings| settings.tls.as_ref()).peekable();
        if blocks.peek().is_some() {
            // The documented default where no block names a mode.
            let named = blocks.find_map(|tls| tls.mode);
            transport.session_mut().tls.mode = named.map_or(Mode::Disabled, mode);
        }
        for pooling in matching.iter().rev().map(|settings| &settings.pooling) {
            let of = &mut transport.pooling;
            of.enabled = pooling.enabled.unwrap_or(of.enabled);
            of.timeout = pooling.timeout.map_or(of.timeout, config::Duration::to_std);
            of.evictable = pooling.evictable.unwrap_or(of.evictable);
            of.transactions = pooling.transactions.unwrap_or(of.transactions);
        }
        if let Some(patience) = matching.iter().find_map(|settings| settings.timeout.connect) {
            transport.connect_timeout = patience.to_std();
        }
        for settings in matching.iter().rev() {
            for (state, patience) in &settings.timeout.smtp {
                transport.set_timeout(state, patience.to_std());
            }
        }
    }

    /// The retry schedule for these field values, if it differs.
    pub fn retry(&self, base: &RetrySchedule, value: &dyn Fn(Field) -> String) -> Option<RetrySchedule> {
        if !self.changes_retry() {
            return None;
        }
        let count = self.matching(value).find_map(|settings| settings.retry.count);
        let intervals = self.matching(value).find_map(|settings| settings.retry.intervals.as_ref());
        if count.is_none() && intervals.is_none() {
            return None;
        }
        let mut schedule = base.clone();
        schedule.count = count.unwrap_or(schedule.count);
        if let Some(intervals) = intervals {
            let step = |step: &config::app::RetryInterval| RetryInterval {
                interval: step.interval.to_std(),
                notify: step.notify,
            };
            schedule.intervals = intervals.iter().map(step).collect();
        }
        Some(schedule)
    }
}

/// Versions and ciphers that the library does not know are told now and not at each handshake.
fn check_tls(at: &str, settings: &DeliverySettings) -> Result<(), String> {
    let Some(tls) = &settings.tls else { return Ok(()) };
    let mut rules = Rules::default();
    apply_tls(&mut rules, tls);
    TlsClient::new(HashMap::new()).check(&rules).map_err(|text| format!("{at}/tls/{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_first_match_wins_for_each_key() {
        let text = r#"
version: "6.9"
lists: [{id: partners, items: [partner.example]}]
delivery:
  conditions:
    - if: {recipientdomain: "@partners", transportid: bulk}
      then: {tls: {mode: require_verify}, pooling: {evictable: true, transactions: 7}}
    - if: {remoteip: [198.51.100.0/24, "2001:db8:7::/48"]}
      then: {tls: {mode: require}, timeout: {connect: 60, smtp: {BANNER: 10m, EOD: 20m}}}
    - if: {grouping: "&microsoft"}
      then: {retry: {count: 20, intervals: [{interval: 5m}, {interval: 1h, notify: true}]}}
  default: {timeout: {connect: 7, smtp: {EOD: 1m, MAIL: 9}}, pooling: {enabled: true, evictable: false}}
"#;
        let file: DeliveryFile = config::load::parse("d", text).unwrap();
        config::validate::delivery("d", &file).unwrap();
        let settings = Settings::new(&file, &Lists::default()).unwrap();
        let app = config::load::parse(
            "a",
            "version: \"6.9\"\nservers: []\ntransportgroups: [{id: g, transports: [{id: bulk}]}]\n",
        );
        let base = crate::transport::transports(&app.unwrap(), "host")["bulk"].clone();
        let applied = |ip: &'static str, domain: &'static str| {
            let mut transport = (*base).clone();
            let value = move |field| match field {
                Field::RemoteIp => ip.to_owned(),
                Field::RecipientDomain => domain.to_owned(),
                Field::TransportId => "bulk".to_owned(),
                _ => String::new(),
            };
            settings.apply(&mut transport, &value);
            transport
        };
        let both = applied("198.51.100.9", "partner.example");
        assert_eq!(
            (both.session.tls.mode, both.connect_timeout),
            (Mode::RequireVerify, Duration::from_secs(60))
        );
        assert_eq!(both.timeout(smtp::client::State::Eod), Duration::from_secs(1200));
        assert_eq!(both.timeout(smtp::client::State::Mail), Duration::from_secs(9));
        let neither = applied("192.0.2.1", "x.example");
        assert_eq!((&neither.session, neither.connect_timeout), (&base.session, Duration::from_secs(7)));
        assert!(neither.pooling.enabled && !neither.pooling.evictable && both.pooling.evictable);
        assert_eq!((both.pooling.transactions, both.pooling.timeout), (7, Duration::from_secs(60)));
        let microsoft =
            |field| if field == Field::Grouping { "&microsoft".to_owned() } else { String::new() };
        let schedule = settings.retry(&base.retry, &microsoft).unwrap();
        assert_eq!((schedule.count, schedule.intervals.len()), (20, 2));
        assert_eq!(settings.retry(&base.retry, &|_| String::new()), None);
        for (text, expected) in [
            ("delivery: {default: {pooling: {enable: true}}}", "enable"),
            ("delivery: {default: {tls: {mode: dane}}}", "DANE"),
            ("delivery: {default: {tls: {implicit: true}}}", "transports only"),
            ("delivery: {default: {tls: {protocols: TLSv7}}}", "TLSv7"),
            ("delivery: {conditions: [{then: {tls: {ciphers: NO-SUCH}}}]}", "NO-SUCH"),
            ("delivery: {default: {timeout: {smtp: {EODD: 1}}}}", "EOD"),
            ("delivery: {default: {retry: {intervals: []}}}", "at least one"),
        ] {
            let file = config::load::parse::<DeliveryFile>("d", &format!("version: \"6.9\"\n{text}\n"));
            let error = match file {
                Err(error) => error.to_string(),
                Ok(file) => match config::validate::delivery("d", &file) {
                    Err(errors) => errors[0].to_string(),
                    Ok(()) => Settings::new(&file, &Lists::default()).unwrap_err(),
                },
            };
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
