use std::net::Ipv4Addr;

use qpc_protocol::crypto;
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::{Config, ServerSecrets};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

use super::*;
use crate::clock::entropy;
use crate::tls::Trust;

struct Memory(MemoryStore);

impl ServerStore for Memory {
    fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
        Ok(self.0.apply(ops))
    }
}

/// A server on a free port whose QUIC and machine take so many connections.
fn server(quic: usize, machine: usize) -> (ServerHandle, Identity) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let identity =
        Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let clock = Clock::start();
    let mut entropy = entropy().unwrap();
    let secrets = ServerSecrets::generate(&mut entropy);
    let config = Config { connections: machine, ..Config::new(crypto::fast()) };
    let machine = Server::new(config, secrets, entropy, clock.now());
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = ServeOptions { connections: quic, ..ServeOptions::new(listen, identity.clone()) };
    let store = Box::new(Memory(MemoryStore::default()));
    (serve(options, machine, store, clock, Box::new(drop)).unwrap(), identity)
}

/// `count` connections made at once, and what became of each after a while: still up, or why not.
fn rush(
    server: &ServerHandle,
    identity: &Identity,
    count: usize,
) -> Vec<Result<(), quinn::ConnectionError>> {
    let executor = Arc::new(Executor::new());
    let local = LocalExecutor::new();
    let main = async {
        let to = server.local_addr();
        let tls = Trust::PinOnly.client_config(Some(identity.pin())).unwrap();
        let config = quic::client_config(tls, None).unwrap();
        let endpoint = quic::client_endpoint(to, &executor).unwrap();
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let connecting = endpoint.connect_with(config.clone(), to, "localhost").unwrap();
                local.spawn(async move {
                    let connection = connecting.await?;
                    let lost = async { Err(connection.closed().await) };
                    let holds = async {
                        smol::Timer::after(Duration::from_secs(3)).await;
                        Ok(())
                    };
                    future::or(lost, holds).await
                })
            })
            .collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await);
        }
        results
    };
    async_io::block_on(executor.run(local.run(main)))
}

fn end(server: ServerHandle) {
    async_io::block_on(server.drain());
    server.join().unwrap();
}

#[test]
fn a_rush_of_connections_shows_its_addresses_and_is_taken() {
    let count = 3 * HANDSHAKES_UNPROVEN;
    let (server, identity) = server(1000, 1000);
    for result in rush(&server, &identity, count) {
        assert!(result.is_ok(), "{result:?}");
    }
    end(server);
}

#[test]
fn who_comes_when_the_server_is_full_is_told_so() {
    let (server, identity) = server(3, 3);
    let results = rush(&server, &identity, 10);
    let full = |error: &quinn::ConnectionError| {
        matches!(error, quinn::ConnectionError::ApplicationClosed(close)
            if close.error_code == VarInt::from_u32(CloseCode::FULL.0))
    };
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3, "{results:?}");
    assert_eq!(results.iter().filter(|result| result.as_ref().is_err_and(full)).count(), 7);
    end(server);
}

#[test]
fn beyond_what_quic_takes_connections_are_refused_before_any_handshake() {
    let (server, identity) = server(0, 1000);
    let results = rush(&server, &identity, CONNECTIONS_BEYOND + 20);
    let refused = |error: &quinn::ConnectionError| {
        matches!(error, quinn::ConnectionError::ConnectionClosed(close)
            if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED)
    };
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), CONNECTIONS_BEYOND);
    assert_eq!(results.iter().filter(|result| result.as_ref().is_err_and(refused)).count(), 20);
    end(server);
}
