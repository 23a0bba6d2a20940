//! Questions to the server itself: ping, health.

use qpc_protocol::client::event::Outcome;
use serde_json::json;

use super::account::unexpected;
use super::context::Context;
use crate::output::{moment, plain};
use crate::problem::Problem;
use crate::session::Session;

/// `qpc ping`.
pub(super) async fn ping(context: &Context, count: u32) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        for _ in 0..count {
            let outcome = session.command(|client, now| client.ping(now)).await?;
            let Outcome::Pong(time) = outcome else { return Err(unexpected(&outcome)) };
            let (exchange, hybrid) = session.key_exchange().unwrap_or_default();
            let server = session.address();
            session.output().result(
                || format!("{server}: {:.3} ms, key exchange {exchange}", time.as_secs_f64() * 1e3),
                &json!({
                    "type": "pong",
                    "server": server,
                    "micros": u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
                    "key_exchange": exchange,
                    "post_quantum": hybrid,
                }),
            )?;
        }
        Ok(())
    };
    context.anonymously(work).await
}

/// `qpc health`.
pub(super) async fn health(context: &Context) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let outcome = session.command(|client, now| client.health(now)).await?;
        let Outcome::Health { healthy, version, time } = outcome else {
            return Err(unexpected(&outcome));
        };
        let word = if healthy { "healthy" } else { "NOT healthy" };
        let server = session.address();
        session.output().result(
            || format!("{server}: {word}, version {}, {}", plain(&version), moment(time)),
            &json!({
                "type": "health",
                "server": server,
                "healthy": healthy,
                "version": version,
                "time": time.0,
            }),
        )
    };
    context.anonymously(work).await
}
