//! Tables for people: columns as wide as what is in them.

use std::io::{self, Write};

/// Prints rows under headings; nothing but the headings if there are none.
pub fn print<const N: usize>(out: &mut impl Write, headings: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
    let headings = headings.map(str::to_owned);
    let width =
        |column: usize| rows.iter().chain([&headings]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in [&headings].into_iter().chain(rows) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut out = Vec::new();
        let rows = [["a".to_owned(), "1".to_owned()], ["longer".to_owned(), "2".to_owned()]];
        print(&mut out, ["NAME", "N"], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME    N\na       1\nlonger  2\n");
    }
}
