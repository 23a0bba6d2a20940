//! Whether two samples of times differ: Welch's t on what is left after the slowest are dropped.
//!
//! The method is that of Reparaz, Balasch and Verbauwhede, "Dude, is my code constant time?" (DATE 2017): both kinds
//! are measured in random order, so that whatever else the machine does falls on both alike.

use std::time::Duration;

/// |t| above which two samples count as different; customary in leakage assessment. Without a difference one comparison
/// in about 150,000 gets there.
pub const THRESHOLD: f64 = 4.5;
/// The least difference of medians that counts, in nanoseconds: the order that attacks over a network are reported to
/// reach (Van Goethem et al., "Timeless Timing Attacks", USENIX Security 2020). A choice, not a proof.
pub const LEAST: f64 = 100.0;
/// What is slower than this share of both samples together is dropped: an interrupt, not the server.
const KEPT: f64 = 0.9;

/// Two samples compared. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// How many of each were kept.
    pub counts: [usize; 2],
    /// Medians of what was kept.
    pub medians: [f64; 2],
    /// Welch's t: the difference of the means, left less right, in standard errors of that difference.
    pub t: f64,
    /// That standard error. Times the threshold: a difference that would have been found.
    pub error: f64,
}

impl Compared {
    /// Compares; `None` if fewer than two of either are left.
    pub fn of(left: &[Duration], right: &[Duration]) -> Option<Self> {
        let mut samples = [left, right].map(|times| {
            let mut nanos: Vec<f64> = times.iter().map(|time| time.as_nanos() as f64).collect();
            nanos.sort_by(f64::total_cmp);
            nanos
        });
        let mut all = samples.concat();
        all.sort_by(f64::total_cmp);
        let cut = *all.get((all.len() as f64 * KEPT) as usize)?;
        for sample in &mut samples {
            sample.retain(|time| *time <= cut);
        }
        let [left, right] = &samples;
        if left.len().min(right.len()) < 2 {
            return None;
        }
        let (t, error) = welch(left, right);
        Some(Self {
            counts: [left.len(), right.len()],
            medians: [median(left), median(right)],
            t,
            error,
        })
    }

    /// By how many nanoseconds the medians differ.
    pub fn difference(&self) -> f64 {
        (self.medians[0] - self.medians[1]).abs()
    }

    /// The median of the left as a multiple of the right's.
    pub fn ratio(&self) -> f64 {
        self.medians[0] / self.medians[1]
    }
}

/// Welch's t of two samples of at least two each, and the standard error of the difference of their means.
fn welch(left: &[f64], right: &[f64]) -> (f64, f64) {
    let [(left, left_error), (right, right_error)] = [left, right].map(|sample| {
        let count = sample.len() as f64;
        let mean = sample.iter().sum::<f64>() / count;
        let squares: f64 = sample.iter().map(|time| (time - mean).powi(2)).sum();
        (mean, squares / (count - 1.0) / count)
    });
    let (difference, error) = (left - right, (left_error + right_error).sqrt());
    // Samples without any spread differ entirely or not at all.
    let t = if difference == 0.0 { 0.0 } else { difference / error };
    (t.clamp(f64::MIN, f64::MAX), error)
}

/// Of a sorted sample.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

#[cfg(test)]
mod tests;
