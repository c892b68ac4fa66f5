//! Tables as the tools print them: bars between cells, one line per row, the first one naming the columns.

use std::fmt::Write as _;

/// Side on which a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// A table being filled.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
    header: bool,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: impl IntoIterator<Item = (impl Into<String>, Align)>) -> Table {
        let columns = columns.into_iter().map(|(name, align)| (name.into(), align)).collect();
        Table { columns, rows: Vec::new(), header: true }
    }

    /// Leaves out the line of names.
    #[must_use]
    pub fn without_header(mut self) -> Table {
        self.header = false;
        self
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The text; nothing at all without rows.
    pub fn render(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let header = self.header.then_some(&names);
        let lines: Vec<&Vec<String>> = header.into_iter().chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| lines.iter().filter_map(|line| line.get(i)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for line in lines {
            for (i, (_, align)) in self.columns.iter().enumerate() {
                let cell = line.get(i).map(String::as_str).unwrap_or_default();
                let room = " ".repeat(widths[i] - width(cell));
                // Writing to a String cannot fail.
                let _ = match align {
                    Align::Left => write!(out, "│ {cell}{room} "),
                    Align::Right => write!(out, "│ {room}{cell} "),
                };
            }
            out.push_str("│\n");
        }
        out
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Control characters would move the cursor or start escape sequences: mail is not to steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A number with at most six significant digits, without trailing zeros.
pub fn six_digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        return value.to_string();
    }
    let scientific = format!("{value:.5e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        // 5 - exponent is between 0 and 9 here.
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        return trim(&format!("{value:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_between_bars() {
        let mut table = Table::new([("id", Align::Left), ("retrycount", Align::Right)]);
        table.row(["c6321f4c:1".to_owned(), "20".to_owned()]);
        table.row(["f6".to_owned(), "1234567890123".to_owned()]);
        let expected = "│ id         │    retrycount │\n│ c6321f4c:1 │            20 │\n│ f6         │ 1234567890123 │\n";
        assert_eq!(table.render(), expected);
        assert_eq!(Table::new([("id", Align::Left)]).render(), "");
        let mut table = Table::new([("ü", Align::Left)]).without_header();
        table.row(["a\x1b[2Jß".to_owned()]);
        assert_eq!(table.render(), "│ a [2Jß │\n");
    }

    #[test]
    fn floats_have_six_significant_digits() {
        for (value, expected) in [
            (57.775_312, "57.7753"),
            (3592.441, "3592.44"),
            (95.311_23, "95.3112"),
            (0.625, "0.625"),
            (3.125, "3.125"),
            (0.0, "0"),
            (100_000.0, "100000"),
            (1_234_567.0, "1.23457e+06"),
            (0.000_012_345_678, "1.23457e-05"),
            (-1.5, "-1.5"),
            (999_999.96, "1e+06"),
        ] {
            assert_eq!(six_digits(value), expected, "{value}");
        }
    }
}
