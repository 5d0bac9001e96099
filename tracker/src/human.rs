//! Figures as people read them.

/// An amount of data with three digits: `812 B`, `7.43 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        amount /= 1_000.0;
        unit = next;
        if amount < 999.5 {
            break;
        }
    }
    match amount {
        ..10.0 => format!("{amount:.2} {unit}"),
        ..100.0 => format!("{amount:.1} {unit}"),
        _ => format!("{amount:.0} {unit}"),
    }
}

/// Which part of two amounts the first one is, in per cent; nothing of nothing has no parts.
pub(crate) fn share(of: u64, other: u64) -> Option<String> {
    let all = u128::from(of) + u128::from(other);
    (all > 0).then(|| format!("{} %", u128::from(of) * 100 / all))
}

/// Rows under headings, each column as wide as it has to be. What would move a terminal's cursor is shown escaped.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let clean = |text: &str| -> String {
        text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
    };
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| clean(cell))).collect();
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([headings[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: &[&str]| {
        let padded: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&headings);
    for row in &rows {
        text.push_str(&line(&row.each_ref().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_digits() {
        for (amount, text) in [(0, "0 B"), (999, "999 B"), (1_000, "1.00 kB"), (12_345_678, "12.3 MB")] {
            assert_eq!(bytes(amount), text);
        }
        assert_eq!(bytes(999_999), "1.00 MB");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }

    #[test]
    fn columns_line_up_and_escape_codes_are_harmless() {
        let rows = [["a".to_owned(), "\u{1b}[2J".to_owned()], ["longer".to_owned(), "b".to_owned()]];
        assert_eq!(table(["NAME", "X"], &rows), "NAME    X\na       \\u{1b}[2J\nlonger  b\n");
    }

    #[test]
    fn nothing_has_no_parts() {
        assert_eq!(share(0, 0), None);
        assert_eq!(share(3, 1).as_deref(), Some("75 %"));
    }
}
