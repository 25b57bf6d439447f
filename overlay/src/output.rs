//! The programs' stdout: lines for scripts and people, tables for people.

use std::io::{self, Write};

/// Writes one line and flushes it, so that whoever reads along sees it at once.
///
/// # Errors
/// The system's, such as a closed pipe.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Lays out rows below their titles, columns two spaces apart, no blanks at line ends.
#[must_use]
pub fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(titles[column].chars().count())
    };
    let widths: Vec<_> = (0..titles.len()).map(width).collect();
    let titles = titles.iter().map(|title| (*title).to_owned()).collect();
    let lines = std::iter::once(&titles).chain(rows).map(|row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Writes a count of bytes or bits with a unit that keeps it short: `1.2 G`.
#[must_use]
pub fn short_count(count: f64) -> String {
    let units = [(1e9, " G"), (1e6, " M"), (1e3, " k")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1}{name}", count / unit),
        None => format!("{count:.0} "),
    }
}

/// Writes a rate in both units: `1.2 Mbit/s 310/s`, or a dash for none.
#[must_use]
pub fn rate(bps: f64, fps: f64) -> String {
    if fps < 0.05 {
        return "–".to_owned();
    }
    format!("{}bit/s {}/s", short_count(bps), short_count(fps.ceil()).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["g1".to_owned(), "direct".to_owned()], vec!["g10".into(), "–".into()]];
        assert_eq!(table(&["guest", "path"], &rows), "guest  path\ng1     direct\ng10    –");
        assert_eq!(table(&["guest"], &[]), "guest");
    }

    #[test]
    fn counts_are_short() {
        let shown = [0.0, 999.0, 1500.0, 2.5e6, 3.6e9].map(short_count);
        assert_eq!(shown, ["0 ", "999 ", "1.5 k", "2.5 M", "3.6 G"]);
    }
}
