//! Toy machines at both ends of real QUIC: what a machine may rely on, whatever it does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use qpc_protocol::limits::READ_CHUNK;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use smol::Executor;

use super::*;
use crate::clock::Clock;
use crate::link::LINK_WINDOW;
use crate::quic::{self, Quic};
use crate::tls::{Identity, Trust};

/// One link as a toy machine sees it.
#[derive(Debug, Default)]
struct End {
    /// Bytes to send.
    out: VecDeque<u8>,
    /// Send `fin` after them.
    fin: bool,
    fin_sent: bool,
    credit: usize,
    /// Sent or under way to the other side of credit.
    spent: usize,
    asked: bool,
    want: bool,
    received: Vec<u8>,
    closed: Option<Gone>,
}

/// A machine that sends what it is told, checks the contract, and echoes if it is a server.
#[derive(Default)]
struct Toy {
    echo: bool,
    /// Does not read before told.
    lazy: bool,
    ends: BTreeMap<LinkId, End>,
    orders: VecDeque<Output>,
    gone: Vec<(ConnId, Gone)>,
    up: Vec<ConnId>,
    computed: usize,
}

impl Machine for Toy {
    fn handle(&mut self, _: Now, input: Input<'_>) -> Result<(), Fatal> {
        match input {
            Input::Connected(conn, _) => self.up.push(conn),
            Input::Disconnected(conn, why) => self.gone.push((conn, why)),
            Input::Accepted(_, link) => {
                self.ends.insert(link, End { want: !self.lazy, ..End::default() });
            }
            Input::Writable(link, credit) => {
                let end = self.ends.get_mut(&link).unwrap();
                end.credit += credit;
                end.spent = end.spent.saturating_sub(credit);
                assert!(end.credit + end.spent <= LINK_WINDOW, "more credit than the window");
            }
            Input::Bytes(link, bytes) => {
                let end = self.ends.get_mut(&link).unwrap();
                assert!(std::mem::take(&mut end.asked), "bytes that nobody asked for");
                assert!(!bytes.is_empty() && bytes.len() <= READ_CHUNK);
                end.received.extend_from_slice(bytes);
                if self.echo {
                    end.out.extend(bytes);
                }
                end.want = true;
            }
            Input::Closed(link, gone) => {
                let end = self.ends.get_mut(&link).unwrap();
                assert!(end.closed.is_none(), "closed twice");
                end.fin |= gone == Gone::Finished && self.echo;
                end.closed = Some(gone);
            }
            Input::Computed(..) => self.computed += 1,
            _ => {}
        }
        Ok(())
    }

    fn poll(&mut self, buffer: &mut Vec<u8>) -> Output {
        if let Some(output) = self.orders.pop_front() {
            if let Output::Open(_, link, _) = output {
                self.ends.entry(link).or_default().want = !self.lazy;
            }
            return output;
        }
        for (&link, end) in &mut self.ends {
            let len = end.out.len().min(end.credit).min(40_000);
            let fin = end.fin && len == end.out.len() && !end.fin_sent;
            if len > 0 || fin {
                buffer.extend(end.out.drain(..len));
                end.credit -= len;
                end.spent += len;
                end.fin_sent |= fin;
                return Output::Send { link, len, fin };
            }
            // An echo reads on when most of what it read before is sent.
            let room = !self.echo || end.out.len() < 100_000;
            if end.want && !end.asked && end.closed.is_none() && room {
                (end.want, end.asked) = (false, true);
                return Output::Read(link);
            }
        }
        Output::Idle { wake_at: None, reason: qpc_protocol::io::WakeReason::Nothing }
    }
}

/// A toy with its connections.
struct Side {
    toy: Toy,
    lines: Lines,
    reports: Receiver<Report>,
    ended: Receiver<()>,
    clock: Clock,
    buffer: Vec<u8>,
}

impl Side {
    fn new(toy: Toy, local: &Rc<LocalExecutor<'static>>) -> Self {
        let (lines, reports, ended) = Lines::new(local);
        Self { toy, lines, reports, ended, clock: Clock::start(), buffer: Vec::new() }
    }

    fn poll(&mut self) {
        self.lines.poll(&mut self.toy, &mut self.buffer, |_, output| panic!("{output:?}"));
    }

    /// Runs until `done`.
    async fn until(&mut self, done: impl Fn(&Toy) -> bool) {
        loop {
            self.poll();
            if done(&self.toy) {
                return;
            }
            let report = self.reports.recv().await.unwrap();
            self.lines.report(&mut self.toy, self.clock.now(), report).unwrap();
        }
    }
}

const CONN: ConnId = ConnId(7);

/// A client connected to a server, both toys, in the hands of `test`.
fn world(server: Toy, test: impl AsyncFnOnce(Side, Side, quinn::Endpoint)) {
    let executor = Arc::new(Executor::new());
    let local = Rc::new(LocalExecutor::new());
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let identity =
        Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let main = async {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = quic::server_endpoint(identity.config(), listen, None, &executor).unwrap();
        let to = listener.local_addr().unwrap();
        let dialer = quic::client_endpoint(to, &executor).unwrap();
        let mut server = Side::new(server, &local);
        let mut client = Side::new(Toy::default(), &local);
        let spawner = server.lines.spawner().clone();
        let (endpoint, accepting) = (listener.clone(), listener.clone());
        let accept = local.spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let connection = incoming.await.unwrap();
                let (transport, _) = quic::describe(&connection).unwrap();
                spawner.arrived(Quic(connection), transport);
            }
        });
        let tls = Trust::PinOnly.client_config(Some(identity.pin())).unwrap();
        client.lines.connect(CONN, async move {
            let config = quic::client_config(tls, None).unwrap();
            let connection = dialer.connect_with(config, to, "localhost").unwrap().await.unwrap();
            let (transport, _) = quic::describe(&connection).unwrap();
            Ok((Quic(connection), transport))
        });
        client.until(|toy| !toy.up.is_empty()).await;
        server.until(|toy| !toy.up.is_empty()).await;
        let all = async {
            test(client, server, endpoint).await;
        };
        assert!(within(Duration::from_secs(60), all).await, "the test hangs");
        accept.cancel().await;
    };
    async_io::block_on(executor.run(local.run(main)));
}

fn pattern(link: u64, len: usize) -> VecDeque<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(link + 31) >> 3) as u8).collect()
}

fn open(client: &mut Side, link: u64, len: usize, fin: bool) {
    client.toy.orders.push_back(Output::Open(CONN, LinkId(link), LinkRole::Calls));
    client.toy.ends.insert(LinkId(link), End { out: pattern(link, len), fin, ..End::default() });
}

#[test]
fn whatever_is_sent_comes_back_whole_on_every_link() {
    world(Toy { echo: true, ..Toy::default() }, async |mut client, mut server, _| {
        let sizes = [1, 100, 16 * 1024, 70_000, LINK_WINDOW + 1, 5_000_000];
        for (link, size) in sizes.into_iter().enumerate() {
            open(&mut client, link as u64, size, true);
        }
        let echoing = server.until(|_| false);
        let done = client.until(|toy| toy.ends.values().all(|end| end.closed.is_some()));
        future::or(echoing, done).await;
        for (link, size) in sizes.into_iter().enumerate() {
            let end = &client.toy.ends[&LinkId(link as u64)];
            assert_eq!(end.closed, Some(Gone::Finished));
            assert!(pattern(link as u64, size) == end.received, "link {link}");
        }
        assert!(client.lines.pipes.is_empty(), "links that are over are forgotten");
        assert!(server.lines.pipes.is_empty());
        assert!(client.lines.lines[&CONN].links.is_empty());
    });
}

#[test]
fn a_slow_reader_holds_up_its_own_link_and_bounded_bytes() {
    world(Toy { lazy: true, ..Toy::default() }, async |mut client, mut server, _| {
        const ALL: usize = 20 * 1024 * 1024;
        open(&mut client, 0, ALL, false);
        let accept = server.until(|toy| !toy.ends.is_empty());
        future::or(client.until(|_| false), accept).await;
        // Everything that can move without the reader has moved when nothing moves any more.
        let mut before = ALL;
        loop {
            let client_runs = client.until(|_| false);
            let server_runs = server.until(|_| false);
            let pause = async {
                Timer::after(Duration::from_millis(300)).await;
            };
            future::or(pause, future::or(client_runs, server_runs)).await;
            let left = client.toy.ends[&LinkId(0)].out.len();
            if left == before {
                break;
            }
            before = left;
        }
        // One stream window on the other side, our window here, what quinn took for sending.
        let taken = ALL - before;
        assert!(taken >= LINK_WINDOW, "{taken}");
        assert!(taken <= 1024 * 1024 + 2 * LINK_WINDOW, "{taken}");
        // Another link is not held up, and the first goes on when it is read.
        open(&mut client, 1, 1000, true);
        server.toy.lazy = false;
        let done = server.until(|toy| toy.ends.values().any(|end| end.received.len() == 1000));
        future::or(client.until(|_| false), done).await;
        for end in server.toy.ends.values_mut() {
            end.want = end.closed.is_none();
        }
        let done = server.until(|toy| toy.ends.values().any(|end| end.received.len() == ALL));
        future::or(client.until(|_| false), done).await;
    });
}

#[test]
fn closing_a_link_or_a_connection_tells_the_code() {
    world(Toy::default(), async |mut client, mut server, _| {
        open(&mut client, 0, 10, false);
        open(&mut client, 1, 10, false);
        let seen = server
            .until(|toy| toy.ends.values().filter(|end| end.received.len() == 10).count() == 2);
        future::or(client.until(|_| false), seen).await;
        client.toy.orders.push_back(Output::CloseLink(LinkId(0), CloseCode::OVER_LIMIT));
        let told = server.until(|toy| toy.ends.values().any(|end| end.closed.is_some()));
        future::or(client.until(|_| false), told).await;
        let closed: Vec<_> =
            server.toy.ends.values().filter_map(|end| end.closed.clone()).collect();
        assert_eq!(closed, [Gone::Closed(CloseCode::OVER_LIMIT)]);
        assert_eq!(server.lines.pipes.len(), 1);

        client.toy.orders.push_back(Output::CloseConn(CONN, CloseCode::MALFORMED));
        let told = server.until(|toy| !toy.gone.is_empty());
        future::or(client.until(|_| false), told).await;
        assert_eq!(server.toy.gone[0].1, Gone::Closed(CloseCode::MALFORMED));
        assert!(client.toy.gone.is_empty(), "who closes is not told");
        assert!(client.lines.lines.is_empty() && client.lines.pipes.is_empty());
        assert!(server.lines.lines.is_empty() && server.lines.pipes.is_empty());
    });
}

#[test]
fn a_peaceful_close_hands_over_what_was_sent_before() {
    world(Toy::default(), async |mut client, mut server, _| {
        open(&mut client, 0, LINK_WINDOW, false);
        client.until(|toy| toy.ends[&LinkId(0)].out.is_empty()).await;
        client.toy.orders.push_back(Output::CloseConn(CONN, CloseCode::SHUTDOWN));
        client.poll();
        let told = server.until(|toy| !toy.gone.is_empty());
        future::or(client.until(|_| false), told).await;
        assert_eq!(server.toy.gone[0].1, Gone::Closed(CloseCode::SHUTDOWN));
        let end = server.toy.ends.values().next().unwrap();
        assert!(pattern(0, LINK_WINDOW) == end.received);
    });
}

#[test]
fn all_tasks_end_with_their_connection() {
    world(Toy { echo: true, ..Toy::default() }, async |mut client, mut server, endpoint| {
        open(&mut client, 0, 100_000, false);
        let sent = client.until(|toy| toy.ends[&LinkId(0)].received.len() == 100_000);
        future::or(server.until(|_| false), sent).await;
        // One more, on which the client waits for nothing.
        client.toy.lazy = true;
        open(&mut client, 1, 1, false);
        let opened = server.until(|toy| toy.ends.values().any(|end| end.received.len() == 1));
        future::or(client.until(|_| false), opened).await;
        endpoint.close(quinn::VarInt::from_u32(CloseCode::INTERNAL.0), b"");
        client.until(|toy| !toy.gone.is_empty()).await;
        assert_eq!(client.toy.gone, [(CONN, Gone::Closed(CloseCode::INTERNAL))]);
        // A connection holds a sender until its task has ended; the links' tasks hold the reports'.
        let Side { lines, reports, ended, .. } = client;
        drop(lines);
        assert!(ended.recv().await.is_err());
        while reports.recv().await.is_ok() {}
    });
}

#[test]
fn a_connection_given_up_while_it_is_made_tells_nothing() {
    let local = Rc::new(LocalExecutor::new());
    async_io::block_on(local.run(async {
        let mut side = Side::new(Toy::default(), &local);
        side.lines.connect::<Quic, _>(CONN, future::pending());
        side.toy.orders.push_back(Output::CloseConn(CONN, CloseCode::DONE));
        side.poll();
        let Side { lines, reports, ended, .. } = side;
        drop(lines);
        assert!(ended.recv().await.is_err());
        assert!(reports.recv().await.is_err());
    }));
}

#[test]
fn the_alarm_rings_for_the_earliest_deadline() {
    async_io::block_on(async {
        let mut alarm = Alarm::new();
        let start = Instant::now();
        alarm.set(Some(start + Duration::from_secs(60)));
        alarm.set(Some(start + Duration::from_millis(20)));
        alarm.set(Some(start + Duration::from_secs(30)));
        alarm.set(None);
        alarm.ring().await;
        assert!((20..5_000).contains(&start.elapsed().as_millis()));
        alarm.set(Some(start));
        alarm.ring().await;
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}
