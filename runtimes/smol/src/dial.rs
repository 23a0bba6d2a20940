//! How a client's driver makes connections: names resolved, addresses tried, whom to trust.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::{self, Rc};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_io::Timer;
use futures_lite::future;
use qpc_protocol::io::{Gone, Target, Transport};
use smol::{Executor, LocalExecutor};

use crate::address::Address;
use crate::quic::{self, ConnectionFacts, Quic};
use crate::tls::Trust;

/// A host with several addresses: how long one may keep the next from being tried (RFC 8305 §8).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one host that are tried.
const ADDRESSES: usize = 8;

/// What it takes to make connections.
pub(crate) struct Net {
    // Tasks hold this, so it must not hold them.
    pub(crate) executor: Weak<Executor<'static>>,
    pub(crate) local: rc::Weak<LocalExecutor<'static>>,
    pub(crate) trust: Trust,
    pub(crate) connect_time: Duration,
    pub(crate) probe_time: Option<Duration>,
    /// One for IPv4, one for IPv6, made when needed.
    pub(crate) endpoints: RefCell<[Option<quinn::Endpoint>; 2]>,
    pub(crate) facts: Arc<Mutex<Option<ConnectionFacts>>>,
}

impl Net {
    /// Connects to the first address of `target` that answers.
    pub(crate) async fn dial(self: Rc<Self>, target: Target) -> Result<(Quic, Transport), Gone> {
        let address: Address =
            target.0.parse().map_err(|error| Gone::Untrusted(format!("{}: {error}", target.0)))?;
        let tls = self.trust.client_config(address.pin).map_err(Gone::Untrusted)?;
        let config = quic::client_config(tls, self.probe_time).map_err(Gone::Lost)?;
        let addresses = resolve(&address).await?;
        let (results, inbox) = async_channel::bounded(ADDRESSES);
        let mut attempts = Vec::new();
        for (place, remote) in addresses.into_iter().take(ADDRESSES).enumerate() {
            let (net, config, results) = (Rc::clone(&self), config.clone(), results.clone());
            let host = address.host.clone();
            let Some(local) = self.local.upgrade() else { continue };
            attempts.push(local.spawn(async move {
                Timer::after(STAGGER * u32::try_from(place).unwrap_or(u32::MAX)).await;
                drop(results.try_send(net.attempt(config, remote, &host).await));
            }));
        }
        drop(results);
        let mut why = Gone::Lost(format!("{} has no address", address.host));
        while let Ok(result) = inbox.recv().await {
            match result {
                Ok(connection) => {
                    let (transport, facts) = quic::describe(&connection)?;
                    tracing::debug!(remote = %facts.remote, key_exchange = ?facts.key_exchange,
                        post_quantum = facts.is_post_quantum(), "connected");
                    *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts);
                    return Ok((Quic(connection), transport));
                }
                // Whom not to trust is worth more than who did not answer.
                Err(gone) if !matches!(why, Gone::Untrusted(_)) => why = gone,
                Err(_) => {}
            }
        }
        Err(why)
    }

    async fn attempt(
        &self,
        config: quinn::ClientConfig,
        remote: SocketAddr,
        host: &str,
    ) -> Result<quinn::Connection, Gone> {
        let endpoint = self.endpoint(remote).map_err(|error| Gone::Lost(error.to_string()))?;
        let connecting = endpoint
            .connect_with(config, remote, host)
            .map_err(|error| Gone::Lost(format!("{remote}: {error}")))?;
        let late = async {
            Timer::after(self.connect_time).await;
            Err(Gone::Lost(format!("{remote} does not answer")))
        };
        future::or(async { connecting.await.map_err(|error| quic::gone(&error)) }, late).await
    }

    fn endpoint(&self, remote: SocketAddr) -> io::Result<quinn::Endpoint> {
        let mut endpoints = self.endpoints.borrow_mut();
        let place = &mut endpoints[usize::from(remote.is_ipv6())];
        if let Some(endpoint) = place {
            return Ok(endpoint.clone());
        }
        let executor =
            self.executor.upgrade().ok_or_else(|| io::Error::other("the driver ends"))?;
        Ok(place.insert(quic::client_endpoint(remote, &executor)?).clone())
    }
}

async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, Gone> {
    let place = (address.host.clone(), address.port);
    blocking::unblock(move || place.to_socket_addrs().map(Vec::from_iter))
        .await
        .map_err(|error| Gone::Lost(format!("cannot find {}: {error}", address.host)))
}
