//! Named lists of match values (`lists[]`), referred to as `@id` in policies, suspensions, delivery settings and commands.

use config::policy::{Field as ConfigField, List};
use config::value::Strings;
use queue::{Field, Pattern, Selector};
use std::collections::HashMap;
use std::sync::Arc;

/// The largest list file, octets.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The lists of one file, then those of the running configuration.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    own: Arc<HashMap<String, Vec<String>>>,
    next: Option<Arc<HashMap<String, Vec<String>>>>,
}

impl Lists {
    /// Reads the lists of a file.
    pub fn read(lists: &[List], next: Option<&Lists>) -> Result<Lists, String> {
        let mut own = HashMap::with_capacity(lists.len());
        for list in lists {
            let mut items = list.items.clone();
            if let Some(path) = &list.path {
                let failed = |error: &dyn std::fmt::Display| {
                    format!("list '{}': {}: {error}", list.id, path.display())
                };
                let bytes = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
                if bytes > FILE_BYTES_MAX {
                    return Err(failed(&format!("{bytes} bytes, at most {FILE_BYTES_MAX} are read")));
                }
                let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
                let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
                items.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
            }
            own.insert(list.id.clone(), items);
        }
        Ok(Lists { own: Arc::new(own), next: next.map(|next| next.own.clone()) })
    }

    /// The value as a pattern for a field. A list that is not there matches nothing.
    pub fn pattern(&self, field: Field, text: &str) -> Result<Pattern, String> {
        let Some(name) = text.strip_prefix('@') else {
            return Pattern::parse(field, text, &|_| None).map_err(|error| error.to_string());
        };
        let found = self.own.get(name).or_else(|| self.next.as_ref().and_then(|next| next.get(name)));
        let mut patterns = Vec::new();
        for item in found.into_iter().flatten() {
            if item.starts_with('@') {
                return Err(format!("list '{name}': '{item}': lists hold values, not other lists"));
            }
            let pattern = Pattern::parse(field, item, &|_| None);
            patterns.push(pattern.map_err(|error| format!("list '{name}': {error}"))?);
        }
        Ok(Pattern::List(Arc::new(patterns)))
    }

    /// The values of a field as patterns.
    pub fn patterns(&self, field: Field, values: &Strings) -> Result<Vec<Pattern>, String> {
        values.0.iter().map(|text| self.pattern(field, text)).collect()
    }

    /// A selector; `pointer` names where it stands, for errors.
    pub fn selector<'v>(
        &self,
        pointer: &str,
        fields: impl IntoIterator<Item = (ConfigField, &'v Strings)>,
    ) -> Result<Selector, String> {
        let mut selector = Selector::default();
        for (name, values) in fields {
            let field = field(name);
            let patterns = self.patterns(field, values);
            let patterns = patterns.map_err(|error| format!("{pointer}/{}: {error}", field.name()))?;
            selector.fields.push((field, patterns));
        }
        Ok(selector)
    }
}

/// The queue's name of a field.
pub fn field(name: ConfigField) -> Field {
    match name {
        ConfigField::TenantId => Field::TenantId,
        ConfigField::JobId => Field::JobId,
        ConfigField::TransportId => Field::TransportId,
        ConfigField::LocalIp => Field::LocalIp,
        ConfigField::Grouping => Field::Grouping,
        ConfigField::RemoteIp => Field::RemoteIp,
        ConfigField::RemoteMx => Field::RemoteMx,
        ConfigField::RecipientDomain => Field::RecipientDomain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lists_come_before_those_of_the_running_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, "# slow ones\n*.slow.example\n\nmx.old.example # since 2019\n").unwrap();
        let list = |id: &str, items: &[&str], path: Option<&std::path::Path>| List {
            id: id.to_owned(),
            items: items.iter().map(|item| (*item).to_owned()).collect(),
            path: path.map(std::path::Path::to_owned),
        };
        let app =
            Lists::read(&[list("a", &["app.example"], None), list("b", &["b.example"], None)], None).unwrap();
        let own = [list("a", &["own.example"], Some(&path)), list("nets", &["192.0.2.0/24"], None)];
        let lists = Lists::read(&own, Some(&app)).unwrap();
        let matches = |field, text: &str, value: &str| lists.pattern(field, text).unwrap().matches(value);
        assert!(
            matches(Field::RemoteMx, "@a", "own.example") && !matches(Field::RemoteMx, "@a", "app.example")
        );
        assert!(
            matches(Field::RemoteMx, "@a", "x.slow.example")
                && matches(Field::RemoteMx, "@a", "mx.old.example")
        );
        assert!(matches(Field::RemoteMx, "@b", "b.example"));
        assert!(!matches(Field::RemoteMx, "@missing", "b.example"));
        assert!(matches(Field::LocalIp, "@nets", "192.0.2.7"));
        assert!(lists.pattern(Field::LocalIp, "@a").unwrap_err().contains("list 'a'"));
        assert!(Lists::read(&[list("x", &[], Some(&folder.path().join("none")))], None).is_err());
    }
}
