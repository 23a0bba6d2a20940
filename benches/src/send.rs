//! Durable submissions to a real server: a process of its own, QUIC, SQLCipher with `synchronous=FULL`.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use qpc_protocol::env::UnixMillis;
use qpc_protocol::wire::frame::{Decoder, encode};
use qpc_protocol::wire::message::{Body, Frame, Reply, Request};

use crate::Error;
use crate::device::Device;
use crate::quic::{Calls, connect};
use crate::window::{Bounds, Measured, run};

/// What was measured.
#[derive(Debug)]
pub struct Sends {
    /// Bytes of one submission as a frame.
    pub frame: usize,
    /// For each depth.
    pub measured: Vec<Measured>,
}

/// The calendar of a server beside us.
///
/// # Errors
/// A clock before 1970.
pub fn wall() -> Result<UnixMillis, Error> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(UnixMillis(u64::try_from(since.as_millis())?))
}

/// Measures submissions with payloads of `size` bytes, real ciphertexts of a group. Each is encrypted before the clock
/// starts; each is answered only after it is durable.
///
/// # Errors
/// What the server refuses, and what the transport says.
pub fn measure(
    to: SocketAddr,
    size: usize,
    depths: &[usize],
    bounds: Bounds,
) -> Result<Sends, Error> {
    let mut calls = smol::block_on(async { Calls::open(connect(to).await?).await })?;
    let binding = calls.binding()?;
    let wall = wall()?;
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&wall.0.to_be_bytes().repeat(2));
    let mut device = Device::enrol("load", seed, wall, &binding, &mut calls)?;

    let (mut frame, mut seq) = (0, 0);
    let mut measured = Vec::new();
    for &depth in depths {
        let mut submits = device.submissions(size, bounds.count)?.into_iter();
        // The answers of a link come in the order of its calls' seqs; numbers begin anew with every depth.
        let mut call = 1_000;
        let next = |bytes: &mut Vec<u8>| {
            let submit = submits.next().ok_or("no submission is left")?;
            call += 1;
            let before = bytes.len();
            encode(&Frame { call, body: Body::Request(Request::Submit(submit)) }, bytes);
            frame = bytes.len() - before;
            Ok(())
        };
        let mut decoder = Decoder::new();
        let answers = |mut bytes: &[u8]| {
            let mut count = 0;
            while let Some(frame) =
                decoder.next(&mut bytes).map_err(|fault| format!("{fault:?}"))?
            {
                match frame.body {
                    Body::Reply(Reply::Accepted(accepted)) if accepted.seq == seq + 1 => seq += 1,
                    other => return Err(format!("not the next seq: {other:?}").into()),
                }
                count += 1;
            }
            Ok(count)
        };
        measured.push(smol::block_on(run(calls.streams(), depth, bounds, next, answers))?);
    }
    Ok(Sends { frame, measured })
}
