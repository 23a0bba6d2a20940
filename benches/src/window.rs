//! A closed loop with so many in flight, and what it measured.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::Error;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// At most so many.
    pub count: usize,
    /// At most so long.
    pub time: Duration,
}

/// What a measurement came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// How many were answered.
    pub count: u64,
    /// How long that took.
    pub time: Duration,
    /// From sent to answered, in microseconds.
    pub latency: Histogram<u64>,
}

impl Measured {
    /// Per second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }

    /// With stable names: `count`, `seconds`, `per_second`, `p50_us`, `p99_us`, `max_us`.
    pub fn json(&self) -> Value {
        json!({
            "count": self.count,
            "seconds": self.time.as_secs_f64(),
            "per_second": self.rate(),
            "p50_us": self.latency.value_at_quantile(0.50),
            "p99_us": self.latency.value_at_quantile(0.99),
            "max_us": self.latency.max(),
        })
    }
}

/// Sends `next` items, `depth` in flight; `answers` tells how many answers are in some bytes that came.
///
/// # Errors
/// What the transport and the two functions say; also if there are too few items.
pub async fn run(
    (send, recv): (&mut quinn::SendStream, &mut quinn::RecvStream),
    depth: usize,
    bounds: Bounds,
    mut next: impl FnMut(&mut Vec<u8>) -> Result<(), Error>,
    mut answers: impl FnMut(&[u8]) -> Result<usize, Error>,
) -> Result<Measured, Error> {
    let mut latency = Histogram::new(3)?;
    let mut flying = VecDeque::with_capacity(depth);
    let mut bytes = Vec::new();
    let (mut sent, mut count) = (0, 0);
    let start = Instant::now();
    loop {
        bytes.clear();
        let now = Instant::now();
        while flying.len() < depth && sent < bounds.count && now - start < bounds.time {
            next(&mut bytes)?;
            flying.push_back(now);
            sent += 1;
        }
        if flying.is_empty() {
            break;
        }
        if !bytes.is_empty() {
            send.write_all(&bytes).await?;
        }
        let chunk = recv.read_chunk(64 * 1024, true).await?.ok_or("the stream ended")?;
        let answered = answers(&chunk.bytes)?;
        let now = Instant::now();
        for _ in 0..answered {
            let at = flying.pop_front().ok_or("an answer to nothing")?;
            latency.record(u64::try_from((now - at).as_micros())?)?;
            count += 1;
        }
    }
    Ok(Measured { count, time: start.elapsed(), latency })
}
