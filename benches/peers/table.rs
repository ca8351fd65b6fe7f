//! Medians, and the Markdown tables in which they are printed.

use std::time::Duration;

/// The middle of the values; the lower one of the two middles.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The median of `a[i] / b[i]`: neighbouring runs are compared with each other.
pub fn ratio(a: &[f64], b: &[f64]) -> f64 {
    let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
    median(&ratios)
}

pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "sizes for people")]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A Markdown table with a title, printed when it is complete.
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let header = columns.iter().map(ToString::to_string).collect();
        Self { title: title.into(), rows: vec![header, vec!["---".to_owned(); columns.len()]] }
    }

    pub fn row(&mut self, cells: &[String]) {
        assert_eq!(cells.len(), self.rows[0].len(), "a row has the columns of its table");
        self.rows.push(cells.to_vec());
    }

    pub fn print(&self) {
        println!("\n### {}\n", self.title);
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
    }
}
